//! Making, connecting and closing ports.

use super::{Peer, raise};
use crate::domain::ports::{Port, PortState, PortTable, checked_port};
use crate::domain::{Domain, Domains};
use crate::error::Refusal;
use crate::lock::Guard;
use pv_abi::event_channel::{PortStatus, Status, Virq};
use pv_abi::{DomId, Errno, EventPort, VcpuId};
use std::sync::Arc;

const NO_VCPU: Refusal = Refusal::new(Errno::ENOENT, "no such vCPU");

/// The tables of two domains, locked in domid order; one where they are the same.
struct Pair<'a> {
    own: Guard<'a, PortTable>,
    far: Option<Guard<'a, PortTable>>,
}

impl<'a> Pair<'a> {
    fn lock(own: &'a Domain, far: &'a Domain) -> Self {
        if own.id() == far.id() {
            return Self { own: own.ports().lock(), far: None };
        }
        if own.id() < far.id() {
            let own = own.ports().lock();
            return Self { own, far: Some(far.ports().lock()) };
        }
        let far = far.ports().lock();
        Self { own: own.ports().lock(), far: Some(far) }
    }

    fn far(&mut self) -> &mut PortTable {
        self.far.as_deref_mut().unwrap_or(&mut self.own)
    }
}

fn known_vcpu(domain: &Domain, vcpu: VcpuId) -> Result<VcpuId, Refusal> {
    domain.vcpu(vcpu).map(|_| vcpu).ok_or(NO_VCPU)
}

/// Makes a port of `domain` that `remote` may connect to.
///
/// # Errors
/// −ENOSPC with all ports in use.
pub fn alloc_unbound(domain: &Domain, remote: DomId) -> Result<EventPort, Refusal> {
    let remote = if remote == DomId::SELF { domain.id() } else { remote };
    domain.ports().lock().insert(Port { state: PortState::Unbound { remote }, vcpu: VcpuId(0) })
}

/// Makes a port of `domain` and connects it to `far`, which `remote` left unbound for it. The new port is pending
/// at once, since events may have been sent to the other before.
///
/// # Errors
/// −ESRCH where there is no such domain, −EINVAL where its port does not wait for `domain`, −ENOSPC.
pub fn bind_interdomain(
    domains: &Domains,
    domain: &Arc<Domain>,
    remote: DomId,
    far: EventPort,
) -> Result<EventPort, Refusal> {
    let far = checked_port(far)?;
    let remote_id = if remote == DomId::SELF { domain.id() } else { remote };
    if remote_id == DomId::HOST {
        return Err(Refusal::new(Errno::EINVAL, "the host domain leaves no port unbound"));
    }
    let remote = domains.get(remote_id).ok_or(Refusal::new(Errno::ESRCH, "no such domain"))?;
    let near = {
        let mut pair = Pair::lock(domain, &remote);
        let waits =
            matches!(pair.far().get(far)?.state, PortState::Unbound { remote } if remote == domain.id());
        if !waits {
            return Err(Refusal::new(Errno::EINVAL, "that port does not wait for this domain"));
        }
        let state = PortState::Interdomain { remote: remote_id, port: far };
        let near = pair.own.insert(Port { state, vcpu: VcpuId(0) })?;
        pair.far().get_mut(far)?.state = PortState::Interdomain { remote: domain.id(), port: near };
        raise(domain, &pair.own, Peer { port: near, vcpu: VcpuId(0) });
        near
    };
    Ok(near)
}

/// Makes a port for a virtual interrupt: one of `vcpu`'s, or one of the domain's, which is first told to vCPU 0. Those
/// of the host domain can be bound, as on Xen, and never come.
///
/// # Errors
/// −EINVAL for an interrupt that there is not, or one of the domain's on another vCPU, −ENOENT for a vCPU that there
/// is not, −EEXIST where it is bound, −ENOSPC.
pub fn bind_virq(domain: &Domain, virq: Virq, vcpu: VcpuId) -> Result<EventPort, Refusal> {
    if virq.0 >= Virq::COUNT {
        return Err(Refusal::new(Errno::EINVAL, "no such virtual interrupt"));
    }
    if virq.is_global() && vcpu != VcpuId(0) {
        return Err(Refusal::new(Errno::EINVAL, "an interrupt of the domain is bound to its first vCPU"));
    }
    let vcpu = known_vcpu(domain, vcpu)?;
    let mut table = domain.ports().lock();
    if table.virq(virq, vcpu).is_some() {
        return Err(Refusal::new(Errno::EEXIST, "the virtual interrupt is bound"));
    }
    table.insert(Port { state: PortState::Virq(virq), vcpu })
}

/// Makes a port for interrupts to `vcpu` from its own domain.
///
/// # Errors
/// −ENOENT for a vCPU that there is not, −ENOSPC.
pub fn bind_ipi(domain: &Domain, vcpu: VcpuId) -> Result<EventPort, Refusal> {
    let vcpu = known_vcpu(domain, vcpu)?;
    domain.ports().lock().insert(Port { state: PortState::Ipi, vcpu })
}

/// Chooses the vCPU that a port notifies.
///
/// # Errors
/// −ENOENT for a vCPU that there is not, −EINVAL for a port whose vCPU is part of what it is.
pub fn bind_vcpu(domain: &Domain, port: EventPort, vcpu: VcpuId) -> Result<(), Refusal> {
    let vcpu = known_vcpu(domain, vcpu)?;
    let mut table = domain.ports().lock();
    let entry = table.get_mut(checked_port(port)?)?;
    let belongs_to_one = match entry.state {
        PortState::Virq(virq) => !virq.is_global(),
        PortState::Ipi => true,
        PortState::Unbound { .. } | PortState::Interdomain { .. } | PortState::Host(_) => false,
    };
    if belongs_to_one {
        return Err(Refusal::new(Errno::EINVAL, "the port belongs to one vCPU"));
    }
    entry.vcpu = vcpu;
    Ok(())
}

/// Closes a port. The other end of an interdomain channel is left unbound.
///
/// # Errors
/// −EINVAL where it is closed.
pub fn close(domains: &Domains, domain: &Domain, port: EventPort) -> Result<(), Refusal> {
    let port = checked_port(port)?;
    loop {
        let peer = match domain.ports().lock().get(port)?.state {
            PortState::Interdomain { remote, .. } => Some(remote),
            _ => None,
        };
        let closed = match peer.and_then(|peer| domains.get(peer)) {
            Some(remote) => close_pair(domain, &remote, port)?,
            None => close_single(domain, port, peer)?,
        };
        let Some(closed) = closed else { continue };
        if let PortState::Host(end) = closed.state {
            end.port.closed();
        }
        return Ok(());
    }
}

/// Closes `port` if its peer is in `far`'s table; none where that has changed meanwhile.
fn close_pair(domain: &Domain, far: &Domain, port: EventPort) -> Result<Option<Port>, Refusal> {
    let (mut pair, own) = (Pair::lock(domain, far), domain.id());
    let PortState::Interdomain { remote, port: peer } = pair.own.get(port)?.state else { return Ok(None) };
    if remote != far.id() {
        return Ok(None);
    }
    let closed = remove(domain, &mut pair.own, port)?;
    if let Ok(entry) = pair.far().get_mut(peer)
        && matches!(entry.state, PortState::Interdomain { remote, port: back } if remote == own && back == port)
    {
        entry.state = PortState::Unbound { remote: own };
    }
    Ok(Some(closed))
}

/// Closes `port`, which was seen connected to a port of `peer`, who is gone, or to none; nothing comes back where it was
/// connected meanwhile.
fn close_single(domain: &Domain, port: EventPort, peer: Option<DomId>) -> Result<Option<Port>, Refusal> {
    let mut table = domain.ports().lock();
    if peer.is_none() && matches!(table.get(port)?.state, PortState::Interdomain { .. }) {
        return Ok(None);
    }
    remove(domain, &mut table, port).map(Some)
}

/// Takes a port out of its domain's table. What is pending goes with it, under the table's lock: as soon as that is free,
/// the number may be another port's.
fn remove(domain: &Domain, table: &mut PortTable, port: EventPort) -> Result<Port, Refusal> {
    let closed = table.remove(port)?;
    domain.shared().clear_pending(port);
    Ok(closed)
}

/// Closes all ports of a dying domain, and lets it have no more.
pub fn close_all(domains: &Domains, domain: &Domain) {
    domain.ports().lock().close_for_good();
    loop {
        let first = domain.ports().lock().first();
        let Some(port) = first else { return };
        // Only this thread closes a dying domain's ports; a refusal means that the port is closed.
        let _ = close(domains, domain, port);
    }
}

/// Says what a port is.
///
/// # Errors
/// −EINVAL for a number that no port can have.
pub fn status(domain: &Domain, port: EventPort) -> Result<Status, Refusal> {
    let port = checked_port(port)?;
    let table = domain.ports().lock();
    let (mut state, mut vcpu, mut detail) = (PortStatus::CLOSED, VcpuId(0), (0, 0));
    if let Ok(entry) = table.get(port) {
        vcpu = entry.vcpu;
        (state, detail) = match &entry.state {
            PortState::Unbound { remote } => (PortStatus::UNBOUND, (u32::from(remote.0), 0)),
            PortState::Interdomain { remote, port } => {
                (PortStatus::INTERDOMAIN, (u32::from(remote.0), port.0))
            }
            PortState::Host(end) => (PortStatus::INTERDOMAIN, (u32::from(DomId::HOST.0), end.number)),
            PortState::Virq(virq) => (PortStatus::VIRQ, (virq.0, 0)),
            PortState::Ipi => (PortStatus::IPI, (0, 0)),
        };
    }
    let (detail0, detail1) = detail;
    Ok(Status { dom: domain.id(), padding: 0, port, status: state, vcpu, detail0, detail1 })
}
