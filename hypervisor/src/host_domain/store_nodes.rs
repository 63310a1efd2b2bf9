//! What a domain finds of itself in xenstore: the nodes below `/local/domain/N` that Xen's toolstack makes.

use backends::xenstore::{Access, Operation, Permissions, StoreError, StoreHandle};
use pv_abi::{DomId, Errno, EventPort, GrantRef, PAGE_SIZE};

/// What there is to say of a domain.
#[derive(Clone, Debug)]
pub struct StoreNodes<'a> {
    /// The domid, which names the domain's directory below `/local/domain`.
    pub domain: DomId,
    /// What the domain is called.
    pub name: &'a str,
    /// How many pages the domain may have.
    pub pages: u64,
    /// How many vCPUs the domain has.
    pub vcpus: u32,
    /// The domain's port for its console.
    pub console_port: EventPort,
    /// The domain's port for its ring to the store.
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

/// Introduces a domain to the store, and makes its nodes. It may read all of that, and write below
/// [`WRITABLE`].
///
/// # Errors
/// Where the domain is there already, or its name is longer than a node.
pub fn create_store_nodes(store: &StoreHandle, nodes: &StoreNodes<'_>) -> Result<(), StoreError> {
    store.introduce(nodes.domain)?;
    let made: Result<(), Errno> = store.transaction(|operation| write_nodes(operation, nodes));
    made.map_err(|errno| StoreError { operation: "make", path: path(nodes, ""), errno })
}

fn path(nodes: &StoreNodes<'_>, name: &str) -> String {
    format!("/local/domain/{}{name}", nodes.domain.0)
}

fn write_nodes(operation: &mut Operation<'_>, nodes: &StoreNodes<'_>) -> Result<(), Errno> {
    let kib = nodes.pages.saturating_mul(PAGE_SIZE as u64 / 1024).to_string();
    operation.mkdir(path(nodes, ""))?;
    let readable = Permissions::private(DomId::HOST).and(nodes.domain, Access::READ);
    operation.set_permissions(path(nodes, ""), readable)?;
    for (name, value) in [
        ("/name", nodes.name),
        ("/domid", &nodes.domain.0.to_string()),
        ("/memory/target", &kib),
        ("/memory/static-max", &kib),
        ("/console/ring-ref", &GrantRef::CONSOLE.0.to_string()),
        ("/console/port", &nodes.console_port.0.to_string()),
        ("/console/type", "paravane"),
        ("/store/ring-ref", &GrantRef::XENSTORE.0.to_string()),
        ("/store/port", &nodes.store_port.0.to_string()),
        ("/device", ""),
        ("/control", ""),
    ] {
        operation.write(path(nodes, name), value)?;
    }
    for vcpu in 0..nodes.vcpus {
        operation.write(path(nodes, &format!("/cpu/{vcpu}/availability")), "online")?;
    }
    for name in WRITABLE {
        operation.mkdir(path(nodes, name))?;
        operation.set_permissions(path(nodes, name), Permissions::private(nodes.domain))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::xenstore::{Caller, Store};

    const NODES: StoreNodes<'static> = StoreNodes {
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
        create_store_nodes(&store, &NODES).unwrap();
        assert!(create_store_nodes(&store, &NODES).is_err(), "it lives there already");
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
        create_store_nodes(&store, &NODES).unwrap();
        assert!(store.read("/local/domain/7/data/mine").is_err(), "nothing is inherited");
    }
}
