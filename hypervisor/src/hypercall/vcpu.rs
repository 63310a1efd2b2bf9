//! `vcpu_op`: the domain's own vCPUs.

use super::timer::set_single_shot;
use super::{Arguments, Call, Outcome, Reply, done, no_such_operation, refuse};
use crate::clock::MILLISECOND;
use crate::domain::End;
use crate::error::{Failure, Refusal};
use crate::paging::Progress;
use crate::services::Services;
use crate::vcpu::{VcpuHandle, initialise};
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START};
use pv_abi::guest_context::{GuestContext, GuestContextFlags};
use pv_abi::vcpu::{
    RegisterRunstateMemoryArea, RegisterVcpuInfo, SetPeriodicTimer, SetSingleshotTimer, SingleshotFlags,
    VcpuOp, VcpuRunstateInfo,
};
use pv_abi::{Errno, VcpuId};
use std::sync::Arc;

/// Bounds of a periodic timer's period, in nanoseconds: Xen's.
const SHORTEST_PERIOD: u64 = MILLISECOND;
const LONGEST_PERIOD: u64 = u64::MAX >> 2;

/// `vcpu_op(op, vcpu, argument)`.
pub fn vcpu_op(call: &mut Call<'_>, [op, vcpu, at, ..]: Arguments) -> Reply {
    let domain = Arc::clone(call.domain);
    let target = u32::try_from(vcpu).ok().and_then(|id| domain.vcpu(VcpuId(id)));
    // Guests count their vCPUs by asking until there is none.
    let Some(target) = target else { return refuse(Errno::ENOENT, "no such vCPU") };
    let is_self = target.key() == call.handle.key();
    match VcpuOp(op) {
        VcpuOp::INITIALISE => initialise_from(call, target, at),
        VcpuOp::UP if !target.is_initialised() => refuse(Errno::EINVAL, "the vCPU is not initialised"),
        VcpuOp::UP => {
            call.services.scheduler.up(&domain, target.key());
            done()
        }
        VcpuOp::DOWN => down(call, target),
        VcpuOp::IS_UP => Ok(Outcome::Done(u64::from(is_up(call, target)))),
        VcpuOp::SET_PERIODIC_TIMER => periodic(call, target, at),
        VcpuOp::STOP_PERIODIC_TIMER => {
            call.services.timers.set_period(target.key(), None, call.services.clock.now());
            done()
        }
        VcpuOp::SET_SINGLESHOT_TIMER | VcpuOp::STOP_SINGLESHOT_TIMER if !is_self => {
            refuse(Errno::EINVAL, "only a vCPU itself sets its timer")
        }
        VcpuOp::SET_SINGLESHOT_TIMER => single_shot(call, at),
        VcpuOp::STOP_SINGLESHOT_TIMER => set_single_shot(call, None),
        VcpuOp::GET_RUNSTATE_INFO => {
            let account = call.services.scheduler.account(target.key());
            call.write(at, &account.until(call.services.clock.now()))?;
            done()
        }
        VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA => register_runstate_area(call, target, at),
        VcpuOp::REGISTER_VCPU_INFO => register_info(call, target, at),
        VcpuOp::GET_PHYSID => refuse(Errno::EINVAL, "the vCPU is pinned to no physical one"),
        _ => no_such_operation(),
    }
}

fn is_up(call: &Call<'_>, target: &VcpuHandle) -> bool {
    call.services.scheduler.is_up(target.key())
}

fn initialise_from(call: &mut Call<'_>, target: &VcpuHandle, at: u64) -> Reply {
    let first: Box<GuestContext> = Box::new(call.read(at)?);
    let claim = target.claim()?;
    let mut vcpu = claim.state()?;
    let Services { mmu, raises_nm, .. } = call.services;
    if initialise(&mut vcpu, mmu, &first, *raises_nm, &mut call.budget)? == Progress::Preempted {
        return Ok(Outcome::Preempted);
    }
    drop(vcpu);
    claim.keep();
    if GuestContextFlags::from_bits_retain(first.flags).contains(GuestContextFlags::ONLINE) {
        call.services.scheduler.up(call.domain, target.key());
    }
    done()
}

/// The last vCPU that stops takes its domain with it.
fn down(call: &Call<'_>, target: &VcpuHandle) -> Reply {
    let scheduler = &call.services.scheduler;
    if scheduler.is_up(target.key()) && !scheduler.down(target.key()) {
        call.domain.life().end(End::Stopped);
        return Ok(Outcome::Ended);
    }
    done()
}

fn register_info(call: &Call<'_>, target: &VcpuHandle, at: u64) -> Reply {
    let RegisterVcpuInfo { mfn, offset, .. } = call.read(at)?;
    if target.key() != call.handle.key() && is_up(call, target) {
        return refuse(Errno::EINVAL, "the vCPU is up, and another one");
    }
    let mmu = &call.services.mmu;
    let unusable = |_| Refusal::new(Errno::EINVAL, "the frame is not the domain's, or cannot be writable");
    let frame = mmu.hold(call.domain.id(), mfn, true).map_err(unusable)?;
    target.move_info(frame, offset).map_err(|(refusal, frame)| -> Failure {
        mmu.release(frame);
        refusal.into()
    })?;
    done()
}

/// The area is written whenever the vCPU gets or leaves a pcpu, and now.
fn register_runstate_area(call: &Call<'_>, target: &VcpuHandle, at: u64) -> Reply {
    let RegisterRunstateMemoryArea { address } = call.read(at)?;
    let end = address.saturating_add(size_of::<VcpuRunstateInfo>() as u64);
    if address < HYPERVISOR_VIRT_END && end > HYPERVISOR_VIRT_START {
        return refuse(Errno::EFAULT, "the runstate area is in the hypervisor's range");
    }
    target.set_runstate_area(address);
    let account = call.services.scheduler.account(target.key());
    call.vcpu.publish_runstate(&call.services.mmu, address, &account.info());
    done()
}

fn periodic(call: &Call<'_>, target: &VcpuHandle, at: u64) -> Reply {
    let SetPeriodicTimer { period_ns } = call.read(at)?;
    if !(SHORTEST_PERIOD..=LONGEST_PERIOD).contains(&period_ns) {
        return refuse(Errno::EINVAL, "the period is too short, or too long");
    }
    if !call.services.scheduler.has_started(target.key()) {
        return refuse(Errno::EINVAL, "the vCPU was never started");
    }
    call.services.timers.set_period(target.key(), Some(period_ns), call.services.clock.now());
    done()
}

fn single_shot(call: &Call<'_>, at: u64) -> Reply {
    let request: SetSingleshotTimer = call.read(at)?;
    let must_be_future = SingleshotFlags::from_bits_retain(request.flags).contains(SingleshotFlags::FUTURE);
    if must_be_future && request.timeout_abs_ns < call.services.clock.now() {
        return refuse(Errno::ETIME, "the time is past");
    }
    set_single_shot(call, Some(request.timeout_abs_ns))
}
