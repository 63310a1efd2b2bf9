//! Event channels, the 2-level ABI: a bit a port in the shared page, and an upcall where somebody shall look.
//!
//! Invariants, with the tests that guard them ([`tests`](self)):
//! - an interdomain port and its peer name each other; both change under both tables' locks, which are taken in
//!   domid order (`closing_one_end_leaves_the_other_unbound`);
//! - sending locks one table after the other, never both: the peer is looked up again under its own lock, so an
//!   event in flight while a channel closes is dropped rather than sent to a stranger
//!   (`an_event_to_a_closed_port_goes_nowhere`);
//! - a port that is pending already notifies nothing, a masked one latches, unmasking a pending one notifies
//!   (`pending_ports_latch`);
//! - a port is made pending under the lock of its table: a dying domain's ports are closed before its frames are given
//!   back, so nothing is written into them afterwards ([`raise`] asks for the table);
//! - what is pending on a port that is closed is forgotten under that lock, too, before the number is another's
//!   (`a_port_that_is_closed_takes_no_event_of_the_next_along`, in `tests/concurrency`, which tries every interleaving of
//!   events that come while a guest looks, unmasks, polls or closes);
//! - the upcall is marked before the vCPU is woken, and a vCPU that blocks looks once more after it can be woken:
//!   no wake-up is lost (`run_loop`'s `a_wake_up_between_look_and_sleep_is_not_lost`).

mod bind;
mod doorbell;
mod host;

#[cfg(test)]
mod doorbell_tests;
#[cfg(test)]
mod tests;

pub use bind::{alloc_unbound, bind_interdomain, bind_ipi, bind_vcpu, bind_virq, close, close_all, status};
pub use doorbell::hang_doorbell;
pub use host::{HostChannel, connect};

use crate::domain::ports::{HostPort, PortState, PortTable, checked_port};
use crate::domain::{Domain, Domains};
use crate::error::Refusal;
use crate::vcpu::VcpuHandle;
use pv_abi::event_channel::Virq;
use pv_abi::{DomId, Errno, EventPort, VcpuId};
use std::sync::Arc;

/// A port that is to be made pending, and the vCPU that it notifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The port on which the event comes.
    pub port: EventPort,
    /// The vCPU that is told of the event.
    pub vcpu: VcpuId,
}

/// Makes a port of `domain` pending, and tells its vCPU where that is news. The table is the domain's, locked.
pub fn raise(domain: &Domain, _table: &PortTable, peer: Peer) {
    if !domain.shared().set_pending(peer.port) {
        tell(domain, peer);
    }
}

/// Tells the vCPU of a port that has just become pending, or unmasked.
fn tell(domain: &Domain, peer: Peer) {
    if !domain.shared().is_masked(peer.port)
        && let Some(vcpu) = domain.vcpu(peer.vcpu)
    {
        vcpu.info().mark_pending(peer.port.0 / 64);
        domain.wake(peer.vcpu);
    }
    domain.wake_pollers();
}

/// Where a sent event goes.
enum Target {
    Domain(DomId, EventPort),
    Host(Arc<dyn HostPort>),
    /// Nowhere, or it has arrived.
    Done,
}

fn target(domain: &Domain, port: EventPort) -> Result<Target, Refusal> {
    let table = domain.ports().lock();
    let entry = table.get(checked_port(port)?)?;
    Ok(match &entry.state {
        PortState::Interdomain { remote, port } => Target::Domain(*remote, *port),
        PortState::Host(end) => Target::Host(Arc::clone(&end.port)),
        PortState::Ipi => {
            raise(domain, &table, Peer { port, vcpu: entry.vcpu });
            Target::Done
        }
        PortState::Unbound { .. } => Target::Done,
        PortState::Virq(_) => {
            return Err(Refusal::new(Errno::EINVAL, "nobody can send to a virtual interrupt's port"));
        }
    })
}

/// Notifies the other end of `domain`'s `port`. An event on an unbound port goes nowhere.
///
/// # Errors
/// −EINVAL where the port is closed or has no other end.
pub fn send(domains: &Domains, domain: &Domain, port: EventPort) -> Result<(), Refusal> {
    match target(domain, port)? {
        Target::Domain(remote, far) => {
            if let Some(remote) = domains.get(remote) {
                raise_peer(&remote, far, domain.id(), port);
            }
        }
        Target::Host(end) => end.notified(),
        Target::Done => {}
    }
    Ok(())
}

/// Makes `far` of `remote` pending, if it is connected to `port` of `id`.
fn raise_peer(remote: &Domain, far: EventPort, id: DomId, port: EventPort) {
    let table = remote.ports().lock();
    if let Ok(entry) = table.get(far)
        && matches!(entry.state, PortState::Interdomain { remote, port: near } if remote == id && near == port)
    {
        raise(remote, &table, Peer { port: far, vcpu: entry.vcpu });
    }
}

/// Raises a virtual interrupt of a vCPU, where its guest has bound it.
pub fn raise_virq(domain: &Domain, virq: Virq, vcpu: VcpuId) {
    let table = domain.ports().lock();
    if let Some((port, vcpu)) = table.virq(virq, vcpu) {
        raise(domain, &table, Peer { port, vcpu });
    }
}

/// Says that `vcpu` of `domain` polls, then looks: true where one of `ports` is pending. Whoever makes one pending after
/// the look finds the vCPU polling, and wakes it.
pub fn announce_poll(domain: &Domain, vcpu: &VcpuHandle, ports: &[EventPort]) -> bool {
    vcpu.set_polls(true);
    domain.shared().any_pending(ports)
}

/// Unmasks a port, and notifies if it is pending.
///
/// # Errors
/// −EINVAL where it is closed.
pub fn unmask(domain: &Domain, port: EventPort) -> Result<(), Refusal> {
    let table = domain.ports().lock();
    let vcpu = table.get(checked_port(port)?)?.vcpu;
    if domain.shared().clear_mask(port) && domain.shared().is_pending(port) {
        tell(domain, Peer { port, vcpu });
    }
    Ok(())
}
