//! Where ports come from.

use pv_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindVirq, EventChannelOp, PortArgument, PortStatus, Status, Virq,
};
use pv_abi::{DomId, Errno, EventPort, VcpuId};

use super::Port;
use crate::arch::hypercall::event_channel_op;

/// Binds a virtual interrupt of vCPU 0.
pub fn bind_virq(virq: Virq) -> Result<Port, Errno> {
    bind_virq_of(virq, VcpuId(0))
}

/// As [`bind_virq`], for the virtual interrupt of any vCPU.
pub fn bind_virq_of(virq: Virq, vcpu: VcpuId) -> Result<Port, Errno> {
    let mut argument = BindVirq { virq, vcpu, port: EventPort(0) };
    event_channel_op(EventChannelOp::BIND_VIRQ, &mut argument)?;
    Ok(Port::adopt(argument.port))
}

/// A port at which the kernel notifies one of its vCPUs.
pub fn bind_ipi(vcpu: VcpuId) -> Result<Port, Errno> {
    let mut argument = BindIpi { vcpu, port: EventPort(0) };
    event_channel_op(EventChannelOp::BIND_IPI, &mut argument)?;
    Ok(Port::adopt(argument.port))
}

/// A port that `remote` may connect to.
pub fn alloc_unbound(remote: DomId) -> Result<Port, Errno> {
    unbound(remote).map(Port::adopt)
}

fn unbound(remote_dom: DomId) -> Result<EventPort, Errno> {
    let mut argument = AllocUnbound { dom: DomId::SELF, remote_dom, port: EventPort(0) };
    event_channel_op(EventChannelOp::ALLOC_UNBOUND, &mut argument)?;
    Ok(argument.port)
}

/// Connects to a port that another domain has left unbound for this one.
pub fn bind_interdomain(remote_dom: DomId, remote_port: EventPort) -> Result<Port, Errno> {
    let mut argument = BindInterdomain { remote_dom, padding: 0, remote_port, local_port: EventPort(0) };
    event_channel_op(EventChannelOp::BIND_INTERDOMAIN, &mut argument)?;
    Ok(Port::adopt(argument.local_port))
}

/// What one of this domain's ports is bound to, and which vCPU it notifies (`EVTCHNOP_status`).
pub fn status(port: EventPort) -> Result<Status, Errno> {
    let mut status = Status {
        dom: DomId::SELF,
        padding: 0,
        port,
        status: PortStatus(u32::MAX),
        vcpu: VcpuId(0),
        detail0: 0,
        detail1: 0,
    };
    event_channel_op(EventChannelOp::STATUS, &mut status).map(|_| status)
}

/// The number of this domain. A PV domain is told it nowhere; but a port that is left unbound for oneself says for whom.
pub fn own_domain() -> Result<DomId, Errno> {
    let port = unbound(DomId::SELF)?;
    let status = status(port);
    event_channel_op(EventChannelOp::CLOSE, &mut PortArgument { port })?;
    Ok(DomId(status?.detail0 as u16))
}
