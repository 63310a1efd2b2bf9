//! `vcpu_op`: operations on the domain's own vCPUs. There is one that is up from the start.

use super::timer::set_single_shot;
use super::{Arguments, Call, Outcome, Reply, done, no_such_operation, refuse};
use pv_abi::vcpu::{SetSingleshotTimer, SingleshotFlags, VcpuOp};
use pv_abi::{Errno, VcpuId};

/// `vcpu_op(op, vcpu, argument)`.
pub fn vcpu_op(call: &mut Call<'_>, [op, vcpu, at, ..]: Arguments) -> Reply {
    let id = u32::try_from(vcpu).map(VcpuId);
    let Some(id) = id.ok().filter(|&id| call.domain.vcpu(id).is_some()) else {
        return refuse(Errno::ENOENT, "no such vCPU");
    };
    let is_self = id == call.vcpu.id;
    match VcpuOp(op) {
        VcpuOp::INITIALISE if is_self => refuse(Errno::EEXIST, "the vCPU is initialised"),
        VcpuOp::UP if is_self => done(),
        VcpuOp::IS_UP => Ok(Outcome::Done(u64::from(is_self))),
        VcpuOp::STOP_PERIODIC_TIMER => done(),
        VcpuOp::SET_SINGLESHOT_TIMER | VcpuOp::STOP_SINGLESHOT_TIMER if !is_self => {
            refuse(Errno::EINVAL, "only a vCPU itself sets its timer")
        }
        VcpuOp::SET_SINGLESHOT_TIMER => single_shot(call, at),
        VcpuOp::STOP_SINGLESHOT_TIMER => set_single_shot(call, None),
        _ => no_such_operation(),
    }
}

fn single_shot(call: &Call<'_>, at: u64) -> Reply {
    let request: SetSingleshotTimer = call.read(at)?;
    let must_be_future = SingleshotFlags::from_bits_retain(request.flags).contains(SingleshotFlags::FUTURE);
    if must_be_future && request.timeout_abs_ns < call.services.clock.now() {
        return refuse(Errno::ETIME, "the time is past");
    }
    set_single_shot(call, Some(request.timeout_abs_ns))
}
