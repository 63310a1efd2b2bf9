//! What the host domain serves a running domain with.

use super::output::Output;
use super::session::Session;
use super::status::Failure;
use super::stderr::RateLimit;
use backends::block::Disk;
use backends::{Disconnect, console, xenstore};
use hypervisor::control::FilledDomain;
use hypervisor::domain::Domain;
use hypervisor::host_domain::{
    DeviceEnd, HostDomain, Service, StoreNodes, create_store_nodes, start_console, start_disk, start_store,
};
use pv_abi::DomId;
use std::sync::Arc;

/// Threads of the host domain, and the guest's nodes in xenstore.
pub struct Served {
    console: Service<console::End>,
    store: Service<xenstore::End>,
    disks: Vec<Service<DeviceEnd>>,
    nodes: OwnNodes,
}

/// A domain's place in xenstore: it is gone when this is dropped.
struct OwnNodes {
    store: xenstore::StoreHandle,
    domain: DomId,
}

impl Drop for OwnNodes {
    fn drop(&mut self) {
        self.store.release(self.domain);
        // Somebody may have removed it by hand.
        let _ = self.store.remove(&format!("/local/domain/{}", self.domain.0));
        let _ = self.store.remove(&format!("/local/domain/0/backend/vbd/{}", self.domain.0));
    }
}

impl Served {
    /// Starts them, for a domain that has not started.
    pub fn start(
        session: &Session<'_>,
        domain: &Arc<Domain>,
        filled: &FilledDomain,
        output: Output,
    ) -> Result<Self, Failure> {
        let host = Arc::new(HostDomain::new(session.hypervisor.services().mmu.clone(), domain.clone()));
        let nodes = StoreNodes {
            domain: domain.id(),
            name: &session.guest.spec.name,
            pages: domain.maximum_pages(),
            vcpus: session.guest.spec.vcpus,
            console_port: filled.console_port,
            store_port: filled.store_port,
        };
        create_store_nodes(&session.store, &nodes).map_err(Failure::new)?;
        let nodes = OwnNodes { store: session.store.clone(), domain: domain.id() };
        let domain_output = session.domain_output.clone();
        let ended = move |end: &xenstore::End| {
            if let xenstore::End::Disconnected(reason) = end {
                domain_output.warn(&format!("the guest's xenstore is disconnected: {reason}"));
            }
        };
        let store = start_store(host.clone(), filled.store_port, &session.store, ended);
        let store = store.map_err(Failure::new)?;
        let disks = serve_disks(session, &host)?;
        let console = serve_console(session, host, filled, output)?;
        Ok(Self { console, store, disks, nodes })
    }

    /// Stops them, once what the guest has left behind is served.
    pub fn finish(self) {
        self.console.finish();
        for disk in self.disks {
            disk.finish();
        }
        self.store.finish();
        drop(self.nodes);
    }
}

fn serve_disks(session: &Session<'_>, host: &Arc<HostDomain>) -> Result<Vec<Service<DeviceEnd>>, Failure> {
    let serve = |(index, disk): (u8, &Arc<Disk>)| {
        let (disk, domain_output) = (Arc::clone(disk), session.domain_output.clone());
        let name = disk.name().to_owned();
        let (failing, device) = (session.domain_output.clone(), name_of(index, &disk, session));
        disk.failures().tell_by(move |what| failing.warn(&format!("{device}: {what}")));
        let limit = RateLimit::default();
        let failed = move |reason: &Disconnect| {
            if let Some(more) = limit.happened() {
                domain_output.warn(&format!("disk {name} is disconnected: {reason}{more}"));
            }
        };
        start_disk(Arc::clone(host), &session.store, index, disk, failed).map_err(Failure::new)
    };
    (0..).zip(&session.guest.disks).map(serve).collect()
}

/// The end of a disk's customary name: a to z, then aa to zz.
fn letters(index: u8) -> String {
    let letter = |n: u8| char::from(b'a'.saturating_add(n % 26));
    match index / 26 {
        0 => letter(index).into(),
        more => [letter(more.saturating_sub(1)), letter(index)].iter().collect(),
    }
}

/// What a disk is called in messages.
fn name_of(index: u8, disk: &Disk, session: &Session<'_>) -> String {
    let device = format!("disk xvd{} ({})", letters(index), disk.name());
    // Where there are several domains, the line is marked.
    match session.domain_output.is_one_of_several() {
        true => device,
        false => format!("domain {}, {device}", session.guest.spec.name),
    }
}

fn serve_console(
    session: &Session<'_>,
    host: Arc<HostDomain>,
    filled: &FilledDomain,
    output: Output,
) -> Result<Service<console::End>, Failure> {
    let domain_output = session.domain_output.clone();
    let ended = move |end: &console::End| {
        if let console::End::Disconnected(reason) = end {
            domain_output.warn(&format!("the guest's console is disconnected: {reason}"));
        }
    };
    let input = session.focus.input(session.index);
    start_console(host, filled.console_port, input, output, ended).map_err(Failure::new)
}

#[cfg(test)]
mod tests {
    use super::letters;

    #[test]
    fn disks_have_the_names_that_guests_give_them() {
        for (index, name) in [(0, "a"), (25, "z"), (26, "aa"), (51, "az"), (52, "ba"), (63, "bl")] {
            assert_eq!(letters(index), name);
        }
    }
}
