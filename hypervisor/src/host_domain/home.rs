//! What a domain finds of itself in xenstore: the nodes below `/local/domain/N` that Xen's toolstack makes.

use backends::xenstore::{Access, Operation, Permissions, StoreError, StoreHandle};
use pv_abi::{DomId, Errno, EventPort, GrantRef, PAGE_SIZE};

/// What there is to say of a domain.
#[derive(Clone, Debug)]
pub struct Home<'a> {
    /// Its number.
    pub domain: DomId,
    /// Its name.
    pub name: &'a str,
    /// Its memory.
    pub pages: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its console's port.
    pub console_port: EventPort,
    /// Its store's port.
    pub store_port: EventPort,
}

/// What the domain itself writes. By a feature's node it says that it heeds such a request.
const WRITABLE: [&str; 10] = [
    "/control/shutdown",
    "/control/feature-poweroff",
    "/control/feature-reboot",
    "/control/feature-halt",
    "/control/feature-suspend",
    "/data",
    "/drivers",
    "/feature",
    "/attr",
    "/error",
];

/// Introduces a domain to the store, and makes its home. It may read all of that, and write below
/// [`WRITABLE`].
///
/// # Errors
/// Where the domain is there already, or its name is longer than a node.
pub fn move_in(store: &StoreHandle, home: &Home<'_>) -> Result<(), StoreError> {
    store.introduce(home.domain)?;
    let made: Result<(), Errno> = store.transaction(|operation| furnish(operation, home));
    made.map_err(|errno| StoreError { operation: "make", path: path(home, ""), errno })
}

fn path(home: &Home<'_>, name: &str) -> String {
    format!("/local/domain/{}{name}", home.domain.0)
}

fn furnish(operation: &mut Operation<'_>, home: &Home<'_>) -> Result<(), Errno> {
    let kib = home.pages.saturating_mul(PAGE_SIZE as u64 / 1024).to_string();
    operation.mkdir(path(home, ""))?;
    let readable = Permissions::private(DomId::HOST).and(home.domain, Access::READ);
    operation.set_permissions(path(home, ""), readable)?;
    for (name, value) in [
        ("/name", home.name),
        ("/domid", &home.domain.0.to_string()),
        ("/memory/target", &kib),
        ("/memory/static-max", &kib),
        ("/console/ring-ref", &GrantRef::CONSOLE.0.to_string()),
        ("/console/port", &home.console_port.0.to_string()),
        ("/console/type", "paravane"),
        ("/store/ring-ref", &GrantRef::XENSTORE.0.to_string()),
        ("/store/port", &home.store_port.0.to_string()),
        ("/device", ""),
        ("/control", ""),
    ] {
        operation.write(path(home, name), value)?;
    }
    for vcpu in 0..home.vcpus {
        operation.write(path(home, &format!("/cpu/{vcpu}/availability")), "online")?;
    }
    for name in WRITABLE {
        operation.mkdir(path(home, name))?;
        operation.set_permissions(path(home, name), Permissions::private(home.domain))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::xenstore::{Caller, Store};

    const HOME: Home<'static> = Home {
        domain: DomId(7),
        name: "seven",
        pages: 1024,
        vcpus: 2,
        console_port: EventPort(1),
        store_port: EventPort(2),
    };

    #[test]
    fn a_domain_reads_its_home_and_writes_what_is_its_own() {
        let store = StoreHandle::new(Store::default());
        move_in(&store, &HOME).unwrap();
        assert!(move_in(&store, &HOME).is_err(), "it lives there already");
        assert_eq!(store.read("/local/domain/7/memory/target").unwrap(), b"4096");
        store.with(|store| {
            let mut ask = |domain, path: &'static str, value: Option<&'static str>| {
                store.operate(Caller::Domain(DomId(domain)), |operation| match value {
                    None => operation.read(path).map(|_| ()),
                    Some(value) => operation.write(path, value),
                })
            };
            assert_eq!(ask(7, "name", None), Ok(()));
            assert_eq!(ask(7, "name", Some("eight")), Err(Errno::EACCES));
            assert_eq!(ask(7, "control/shutdown", Some("")), Ok(()));
            assert_eq!(ask(7, "control/feature-poweroff", Some("1")), Ok(()));
            assert_eq!(ask(7, "control/mine", Some("")), Err(Errno::EACCES));
            assert_eq!(ask(7, "data/mine", Some("x")), Ok(()));
            assert_eq!(ask(8, "/local/domain/7/name", None), Err(Errno::EACCES));
        });
        store.release(DomId(7));
        store.remove("/local/domain/7").unwrap();
        move_in(&store, &HOME).unwrap();
        assert!(store.read("/local/domain/7/data/mine").is_err(), "nothing is inherited");
    }
}
