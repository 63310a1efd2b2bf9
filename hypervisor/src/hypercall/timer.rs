//! The vCPU's timer. `set_timer_op` and `vcpu_op` set the same one.

use super::{Arguments, Call, Reply, done};
use crate::sched::TimerKind;

/// `set_timer_op(deadline)`: system time in nanoseconds; 0 stops it.
pub fn set_timer_op(call: &mut Call<'_>, [deadline, ..]: Arguments) -> Reply {
    set_single_shot(call, (deadline != 0).then_some(deadline))
}

/// Sets or stops the timer. One in the past fires at once.
pub(super) fn set_single_shot(call: &Call<'_>, deadline: Option<u64>) -> Reply {
    call.services.scheduler.set_timer(call.handle.key(), TimerKind::Singleshot, deadline);
    done()
}
