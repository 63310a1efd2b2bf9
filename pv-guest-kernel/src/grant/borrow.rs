//! A page of another domain's that we use.

use core::mem::ManuallyDrop;

use pv_abi::grant_table::{GrantHandle, GrantStatus, GrantTableOp, MapFlags, MapGrantRef, UnmapGrantRef};
use pv_abi::{DomId, GrantRef};

use super::{Error, outcome};
use crate::arch::hypercall;
use crate::memory::{SharedPage, Window};

/// Another domain's page, mapped for reading and writing until this is dropped. It stays what it is when its owner
/// ends.
pub struct Borrowed {
    handle: GrantHandle,
    window: ManuallyDrop<Window>,
    page: SharedPage,
}

impl Borrowed {
    /// Maps what `domain` lends us by its entry `reference`.
    pub fn map(domain: DomId, reference: GrantRef) -> Result<Self, Error> {
        let window = Window::take().ok_or(Error::NoWindow)?;
        let mut request = [MapGrantRef {
            host_addr: window.address(),
            flags: MapFlags::HOST_MAP,
            reference,
            dom: domain,
            status: GrantStatus::GENERAL_ERROR,
            handle: GrantHandle(0),
            dev_bus_addr: 0,
        }];
        // SAFETY: nothing is mapped in a free window.
        let made = unsafe { hypercall::grant_table_op(GrantTableOp::MAP_GRANT_REF, &mut request) };
        outcome(made, request[0].status)?;
        // SAFETY: mapped there, writable, until `drop`.
        let page = unsafe { SharedPage::at(window.address()) };
        Ok(Self { handle: request[0].handle, window: ManuallyDrop::new(window), page })
    }

    /// The page as it is mapped here. Its owner may write it at any time.
    pub fn page(&self) -> &SharedPage {
        &self.page
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let host_addr = self.window.address();
        let (handle, status) = (self.handle, GrantStatus::GENERAL_ERROR);
        let mut request = [UnmapGrantRef { host_addr, dev_bus_addr: 0, handle, status, padding: 0 }];
        // SAFETY: what is unmapped is used by nobody any more.
        let made = unsafe { hypercall::grant_table_op(GrantTableOp::UNMAP_GRANT_REF, &mut request) };
        match outcome(made, request[0].status) {
            // SAFETY: dropped once, and the window is empty.
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.window) },
            Err(error) => println!("a window is lost, for its page cannot be unmapped: {error}"),
        }
    }
}
