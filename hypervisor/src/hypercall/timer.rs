//! The vCPU's timer. `set_timer_op` and `vcpu_op` set the same one.

use super::{Arguments, Call, Reply, done};
use crate::clock::MILLISECOND;
use crate::timers::TimerKind;

/// A deadline with its highest bit set is a subtraction that wrapped: as on Xen, the timer fires after this.
const WRAPPED_DELAY: u64 = 100 * MILLISECOND;

/// `set_timer_op(deadline)`: system time in nanoseconds; 0 stops it.
pub fn set_timer_op(call: &mut Call<'_>, [deadline, ..]: Arguments) -> Reply {
    let soon = || call.services.clock.now().saturating_add(WRAPPED_DELAY);
    let deadline = match deadline {
        0 => None,
        wrapped if i64::try_from(wrapped).is_err() => Some(soon()),
        deadline => Some(deadline),
    };
    set_single_shot(call, deadline)
}

/// Sets or stops the timer. One in the past fires at once.
pub(super) fn set_single_shot(call: &Call<'_>, deadline: Option<u64>) -> Reply {
    call.services.timers.set(call.handle.key(), TimerKind::Singleshot, deadline);
    done()
}
