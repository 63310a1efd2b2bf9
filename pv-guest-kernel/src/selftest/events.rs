//! Event channels: binding, sending, masking, and what a port says it is.

use core::sync::atomic::Ordering;

use pv_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, EventChannelOp, PortArgument, PortStatus,
    Virq,
};
use pv_abi::{DomId, Errno, EventPort, VcpuId};

use super::report::Report;
use crate::arch::hypercall::event_channel_op;
use crate::event::{self, Port, status};
use crate::shared_info;

pub async fn run(report: &mut Report) {
    pair(report).await;
    interrupt(report);
    virtual_interrupts(report);
    refusals(report);
}

pub fn send(port: EventPort) -> Result<u64, Errno> {
    event_channel_op(EventChannelOp::SEND, &mut PortArgument { port })
}

fn kind(port: EventPort) -> Result<PortStatus, Errno> {
    status(port).map(|status| status.status)
}

/// Both ends of a channel to oneself.
async fn pair(report: &mut Report) {
    let mut unbound = AllocUnbound { dom: DomId::SELF, remote_dom: DomId::SELF, port: EventPort(0) };
    report.done("an unbound port", event_channel_op(EventChannelOp::ALLOC_UNBOUND, &mut unbound));
    report.equal("the status of an unbound port", kind(unbound.port), Ok(PortStatus::UNBOUND));
    let mut bind = BindInterdomain {
        remote_dom: DomId::SELF,
        padding: 0,
        remote_port: unbound.port,
        local_port: EventPort(0),
    };
    let bound = event_channel_op(EventChannelOp::BIND_INTERDOMAIN, &mut bind);
    report.done("connecting to it", bound);
    let peer = status(bind.local_port).map(|status| (status.status, status.detail1));
    report.equal("the status of the new port", peer, Ok((PortStatus::INTERDOMAIN, unbound.port.0)));

    let (far, near) = (Port::adopt(unbound.port), Port::adopt(bind.local_port));
    event::dispatch();
    let before = far.fired();
    report.done("sending on one end", send(near.number()));
    event::dispatch();
    report.equal("events at the other end", far.fired() - before, 1);
    far.wait().await;
    report.done("sending twice before the other end looks", send(near.number()).and(send(near.number())));
    event::dispatch();
    report.equal("events at the other end", far.fired(), 1);
    drop(near);
    report.equal("the status of a port whose peer closed", kind(far.number()), Ok(PortStatus::UNBOUND));
    let closed = far.number();
    drop(far);
    report.equal("the status of a closed port", kind(closed), Ok(PortStatus::CLOSED));
}

/// A port for interrupts between vCPUs, and masking.
fn interrupt(report: &mut Report) {
    let mut bind = BindIpi { vcpu: VcpuId(0), port: EventPort(0) };
    report.done("an interprocessor port", event_channel_op(EventChannelOp::BIND_IPI, &mut bind));
    report.equal("the status of an interprocessor port", kind(bind.port), Ok(PortStatus::IPI));
    let port = Port::adopt(bind.port);
    let (word, bit) = (bind.port.0 as usize / 64, 1u64 << (bind.port.0 % 64));
    shared_info::mask(word).fetch_or(bit, Ordering::AcqRel);
    report.done("sending on a masked port", send(bind.port));
    event::dispatch();
    report.equal("events while masked", port.fired(), 0);
    let pending = shared_info::pending(word).load(Ordering::Acquire) & bit != 0;
    report.check("the pending bit of a masked port", pending, "kept");
    let unmask = event_channel_op(EventChannelOp::UNMASK, &mut PortArgument { port: bind.port });
    report.done("unmasking a pending port", unmask);
    event::dispatch();
    report.equal("events after unmasking", port.fired(), 1);
    let mut vcpu = BindVcpu { port: bind.port, vcpu: VcpuId(0) };
    let moved = event_channel_op(EventChannelOp::BIND_VCPU, &mut vcpu);
    report.refused("choosing the vCPU of an interprocessor port", moved, Errno::EINVAL);
}

fn bind_virq(virq: Virq, vcpu: u32) -> Result<EventPort, Errno> {
    let mut bind = BindVirq { virq, vcpu: VcpuId(vcpu), port: EventPort(0) };
    event_channel_op(EventChannelOp::BIND_VIRQ, &mut bind).map(|_| bind.port)
}

fn virtual_interrupts(report: &mut Report) {
    let bound = bind_virq(Virq::DEBUG, 0);
    report.check("a virtual interrupt", bound.is_ok(), format_args!("{bound:?}"));
    if let Ok(port) = bound {
        report.equal("the status of a virtual interrupt", kind(port), Ok(PortStatus::VIRQ));
        drop(Port::adopt(port));
    }
    report.equal("binding the timer twice", bind_virq(Virq::TIMER, 0), Err(Errno::EEXIST));
    report.equal("an unknown virtual interrupt", bind_virq(Virq(99), 0), Err(Errno::EINVAL));
    report.equal("a virtual interrupt of no vCPU", bind_virq(Virq::DEBUG, 99), Err(Errno::ENOENT));
}

fn refusals(report: &mut Report) {
    let no_such = EventPort(4000);
    report.refused("sending on a port that is closed", send(no_such), Errno::EINVAL);
    report.refused("sending on port 0", send(EventPort(0)), Errno::EINVAL);
    report.refused("sending on a port beyond all", send(EventPort(u32::MAX)), Errno::EINVAL);
    let close = event_channel_op(EventChannelOp::CLOSE, &mut PortArgument { port: no_such });
    report.refused("closing a port that is closed", close, Errno::EINVAL);
    let mut vcpu = BindVcpu { port: no_such, vcpu: VcpuId(99) };
    let moved = event_channel_op(EventChannelOp::BIND_VCPU, &mut vcpu);
    report.refused("choosing a vCPU that does not exist", moved, Errno::ENOENT);
    let unknown = event_channel_op(EventChannelOp(99), &mut vcpu);
    report.refused("an unknown event operation", unknown, Errno::ENOSYS);
}
