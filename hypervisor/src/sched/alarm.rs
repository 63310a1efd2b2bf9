//! Timers, and the thread that wakes for them and for the ends of slices.

use super::{SLICE, Scheduler, TimerKind};
use crate::domain::Wake;
use crate::event_channel::raise_virq;
use crate::vcpu::VcpuKey;
use pv_abi::event_channel::Virq;
use std::time::Duration;

impl Scheduler {
    /// Sets or stops a timer. One in the past fires at once: the caller's pcpu looks before it enters a guest.
    pub fn set_timer(&self, vcpu: VcpuKey, kind: TimerKind, deadline: Option<u64>) {
        let mut state = self.state.lock();
        state.timers.set(vcpu, kind, deadline);
        self.settle(&state);
    }

    /// Sets or stops the periodic timer of a vCPU. False, and nothing is set, where it was never started.
    pub fn set_period(&self, vcpu: VcpuKey, period: Option<u64>) -> bool {
        let mut state = self.state.lock();
        if state.activity(vcpu).is_none() {
            return false;
        }
        state.timers.set_period(vcpu, period, self.clock.now());
        self.settle(&state);
        true
    }

    /// Fires the timers that are due.
    pub fn fire_timers(&self) {
        let now = self.clock.now();
        loop {
            let mut state = self.state.lock();
            let Some((vcpu, kind)) = state.timers.take_due(now) else { return };
            let domain = state.vcpus.get(&vcpu).map(|entry| entry.domain.clone());
            drop(state);
            match (kind, domain) {
                (TimerKind::Singleshot | TimerKind::Periodic, Some(domain)) => {
                    raise_virq(&domain, Virq::TIMER, vcpu.vcpu)
                }
                (TimerKind::Poll, Some(_)) => self.wake(vcpu),
                (_, None) => {}
            }
        }
    }

    /// Sleeps until the alarm, then fires timers and kicks pcpus. False when the machine stops.
    pub fn alarm(&self) -> bool {
        let mut state = self.state.lock();
        if state.stopping {
            return false;
        }
        let alarm_at = state.alarm();
        state.alarm_at = alarm_at;
        let left = alarm_at.saturating_sub(self.clock.now());
        if left > 0 {
            let limit = (alarm_at != u64::MAX).then(|| Duration::from_nanos(left));
            state = state.wait(&self.alarm, limit);
        }
        // From here on nobody needs to notify: the alarm is computed anew before the next sleep.
        state.alarm_at = 0;
        let (now, others_wait) = (self.clock.now(), state.others_wait());
        for (index, slot) in state.slots.iter_mut().enumerate() {
            if slot.over_at(others_wait).is_some_and(|at| at <= now) {
                // It looks at the time by itself before it enters a guest, so one kick is enough.
                slot.kick_again_at = now.saturating_add(SLICE);
                self.kick(index);
            }
        }
        drop(state);
        self.fire_timers();
        true
    }
}
