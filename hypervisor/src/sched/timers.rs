//! Timers of vCPUs: absolute system times. Each vCPU has one of each kind.

use crate::vcpu::VcpuKey;
use std::collections::{BTreeMap, BTreeSet};

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// `set_timer_op` and `VCPUOP_set_singleshot_timer`: raises VIRQ_TIMER.
    Singleshot,
    /// The timeout of `SCHEDOP_poll`: wakes the vCPU.
    Poll,
}

/// All timers that are set.
#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeSet<(u64, VcpuKey, TimerKind)>,
    by_owner: BTreeMap<(VcpuKey, TimerKind), u64>,
}

impl Timers {
    /// Sets a timer to a system time, or stops it.
    pub fn set(&mut self, vcpu: VcpuKey, kind: TimerKind, deadline: Option<u64>) {
        if let Some(old) = self.by_owner.remove(&(vcpu, kind)) {
            self.by_time.remove(&(old, vcpu, kind));
        }
        if let Some(deadline) = deadline {
            self.by_owner.insert((vcpu, kind), deadline);
            self.by_time.insert((deadline, vcpu, kind));
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<u64> {
        self.by_time.first().map(|&(deadline, ..)| deadline)
    }

    /// Takes one that is due.
    pub fn take_due(&mut self, now: u64) -> Option<(VcpuKey, TimerKind)> {
        let &(deadline, vcpu, kind) = self.by_time.first()?;
        if deadline > now {
            return None;
        }
        self.set(vcpu, kind, None);
        Some((vcpu, kind))
    }

    /// Stops all of a vCPU's.
    pub fn forget(&mut self, vcpu: VcpuKey) {
        [TimerKind::Singleshot, TimerKind::Poll].into_iter().for_each(|kind| self.set(vcpu, kind, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::{DomId, VcpuId};

    #[test]
    fn timers_fire_in_order_and_once_and_the_last_setting_counts() {
        let mut timers = Timers::default();
        let [a, b] = [1, 2].map(|domain| VcpuKey { domain: DomId(domain), vcpu: VcpuId(0) });
        timers.set(a, TimerKind::Singleshot, Some(50));
        timers.set(a, TimerKind::Singleshot, Some(30));
        timers.set(b, TimerKind::Poll, Some(20));
        timers.set(b, TimerKind::Singleshot, Some(40));
        assert_eq!((timers.next(), timers.take_due(19)), (Some(20), None));
        timers.set(b, TimerKind::Singleshot, None);
        assert_eq!(timers.take_due(60), Some((b, TimerKind::Poll)));
        assert_eq!(timers.take_due(60), Some((a, TimerKind::Singleshot)));
        assert_eq!((timers.take_due(60), timers.next()), (None, None));
        timers.set(a, TimerKind::Poll, Some(0));
        timers.forget(a);
        assert_eq!(timers.take_due(u64::MAX), None);
    }
}
