//! `event_channel_op`.

use super::{Arguments, Call, Reply, done, no_such_operation, refuse};
use crate::error::Refusal;
use crate::event_channel as channel;
use pv_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, EventChannelOp as Op, PortArgument, Status,
};
use pv_abi::{DomId, Errno, EventPort};
use zerocopy::{Immutable, IntoBytes};

/// `event_channel_op(op, argument)`.
pub fn event_channel_op(call: &mut Call<'_>, [op, at, ..]: Arguments) -> Reply {
    match Op(op) {
        Op::BIND_INTERDOMAIN => bind_interdomain(call, at),
        Op::BIND_VIRQ => bind_virq(call, at),
        Op::BIND_IPI => bind_ipi(call, at),
        Op::ALLOC_UNBOUND => alloc_unbound(call, at),
        Op::BIND_PIRQ => refuse(Errno::EPERM, "there are no physical interrupts"),
        Op::CLOSE => port(call, at, |call, port| channel::close(&call.services.domains, call.domain, port)),
        Op::SEND => port(call, at, |call, port| channel::send(&call.services.domains, call.domain, port)),
        Op::UNMASK => port(call, at, |call, port| channel::unmask(call.domain, port)),
        Op::BIND_VCPU => {
            let request: BindVcpu = call.read(at)?;
            channel::bind_vcpu(call.domain, request.port, request.vcpu)?;
            done()
        }
        Op::STATUS => status(call, at),
        Op::INIT_CONTROL => refuse(Errno::EINVAL, "the FIFO ABI is not offered"),
        Op::EXPAND_ARRAY => refuse(Errno::EOPNOTSUPP, "the FIFO ABI was not set up"),
        _ => no_such_operation(),
    }
}

fn port(call: &mut Call<'_>, at: u64, act: impl Fn(&Call<'_>, EventPort) -> Result<(), Refusal>) -> Reply {
    let PortArgument { port } = call.read(at)?;
    act(call, port)?;
    done()
}

/// Tells the guest of its new port; where that fails, there is no new port.
fn answer<T: IntoBytes + Immutable>(call: &Call<'_>, at: u64, answer: &T, port: EventPort) -> Reply {
    let told = call.write(at, answer);
    if told.is_err() {
        // It was made just now; a refusal means that it is closed already.
        let _ = channel::close(&call.services.domains, call.domain, port);
    }
    told?;
    done()
}

fn bind_interdomain(call: &mut Call<'_>, at: u64) -> Reply {
    let mut request: BindInterdomain = call.read(at)?;
    let (domain, port) = (request.remote_dom, request.remote_port);
    request.local_port = channel::bind_interdomain(&call.services.domains, call.domain, domain, port)?;
    answer(call, at, &request, request.local_port)
}

fn bind_virq(call: &mut Call<'_>, at: u64) -> Reply {
    let mut request: BindVirq = call.read(at)?;
    request.port = channel::bind_virq(call.domain, request.virq, request.vcpu)?;
    answer(call, at, &request, request.port)
}

fn bind_ipi(call: &mut Call<'_>, at: u64) -> Reply {
    let mut request: BindIpi = call.read(at)?;
    request.port = channel::bind_ipi(call.domain, request.vcpu)?;
    answer(call, at, &request, request.port)
}

fn alloc_unbound(call: &mut Call<'_>, at: u64) -> Reply {
    let mut request: AllocUnbound = call.read(at)?;
    call.check_self(request.dom)?;
    request.port = channel::alloc_unbound(call.domain, request.remote_dom)?;
    answer(call, at, &request, request.port)
}

fn status(call: &mut Call<'_>, at: u64) -> Reply {
    let request: Status = call.read(at)?;
    call.check_self(request.dom)?;
    let mut status = channel::status(call.domain, request.port)?;
    if request.dom == DomId::SELF {
        status.dom = DomId::SELF;
    }
    call.write(at, &status)?;
    done()
}
