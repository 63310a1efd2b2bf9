//! A device's nodes in xenstore: a directory for each of its ends.

use crate::xenstore::{Access, Operation, Permissions, StoreError, StoreHandle};
use pv_abi::io::xenbus::XenbusState;
use pv_abi::{DomId, Errno};
use std::collections::BTreeMap;

/// Nodes below a device's directory, and their values.
pub type Nodes = BTreeMap<&'static str, String>;

/// Where a device's nodes are in the store: of which class and number it is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Its class: `vbd`, `vif`.
    pub class: &'static str,
    /// The domain that has the front-end.
    pub domain: DomId,
    /// Its number in that domain.
    pub number: u32,
}

impl Address {
    /// The front-end's directory.
    pub fn front_end(&self) -> String {
        format!("/local/domain/{}/device/{}/{}", self.domain.0, self.class, self.number)
    }

    /// The back-end's directory.
    pub fn back_end(&self) -> String {
        let Self { class, domain, number } = self;
        format!("/local/domain/{}/backend/{class}/{}/{number}", DomId::HOST.0, domain.0)
    }
}

/// Makes the nodes of a device, those of a new device at this address whatever was there before: both ends are to
/// find each other, and what else is to be known of it.
///
/// # Errors
/// The store's.
pub fn create(
    store: &StoreHandle,
    address: &Address,
    front_end: &Nodes,
    back_end: &Nodes,
) -> Result<(), StoreError> {
    let (front_path, back_path) = (address.front_end(), address.back_end());
    let (domain, initialising) = (address.domain, XenbusState::INITIALISING.0.to_string());
    let made: Result<(), Errno> = store.transaction(|operation| {
        // The guest owns its directory; what it owns, the host domain may read anyway.
        fresh(operation, &front_path, Permissions::private(domain))?;
        fresh(operation, &back_path, Permissions::private(DomId::HOST).and(domain, Access::READ))?;
        for (name, value) in front_end {
            operation.write(format!("{front_path}/{name}"), value)?;
        }
        for (name, value) in back_end {
            operation.write(format!("{back_path}/{name}"), value)?;
        }
        operation.write(format!("{front_path}/backend"), &back_path)?;
        operation.write(format!("{front_path}/backend-id"), DomId::HOST.0.to_string())?;
        operation.write(format!("{front_path}/state"), &initialising)?;
        operation.write(format!("{back_path}/frontend"), &front_path)?;
        operation.write(format!("{back_path}/frontend-id"), domain.0.to_string())?;
        operation.write(format!("{back_path}/online"), "1")?;
        operation.write(format!("{back_path}/state"), &initialising)
    });
    made.map_err(|errno| StoreError { operation: "make", path: back_path, errno })
}

/// An empty directory with these permissions, which what is made below it will have too.
fn fresh(operation: &mut Operation<'_>, path: &str, permissions: Permissions) -> Result<(), Errno> {
    match operation.remove(path) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    operation.mkdir(path)?;
    operation.set_permissions(path, permissions)
}

/// Says that a device is not wanted any more: it goes as soon as its front-end has let go.
///
/// # Errors
/// The store's.
pub fn withdraw(store: &StoreHandle, address: &Address) -> Result<(), StoreError> {
    store.write(&format!("{}/online", address.back_end()), "0")
}
