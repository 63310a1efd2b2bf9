//! Timers of vCPUs: absolute system times. Each vCPU has one of each kind.

use crate::vcpu::VcpuKey;
use std::collections::{BTreeMap, BTreeSet};

/// What is done when a timer runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// `set_timer_op` and `VCPUOP_set_singleshot_timer`: raises VIRQ_TIMER.
    Singleshot,
    /// `VCPUOP_set_periodic_timer`: raises VIRQ_TIMER, again and again.
    Periodic,
    /// The timeout of `SCHEDOP_poll`: wakes the vCPU.
    Poll,
}

/// All timers that are set.
#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeSet<(u64, VcpuKey, TimerKind)>,
    by_owner: BTreeMap<(VcpuKey, TimerKind), u64>,
    /// Nanoseconds between two firings of periodic ones.
    periods: BTreeMap<VcpuKey, u64>,
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

    /// Sets a vCPU's periodic timer, which fires first a period from `now`, or stops it. A period is not 0.
    pub fn set_period(&mut self, vcpu: VcpuKey, period: Option<u64>, now: u64) {
        match period {
            Some(period) => self.periods.insert(vcpu, period),
            None => self.periods.remove(&vcpu),
        };
        self.set(vcpu, TimerKind::Periodic, period.map(|period| now.saturating_add(period)));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<u64> {
        self.by_time.first().map(|&(deadline, ..)| deadline)
    }

    /// Takes one that is due. A periodic one is set again; what it has missed it does not make up for.
    pub fn take_due(&mut self, now: u64) -> Option<(VcpuKey, TimerKind)> {
        let &(deadline, vcpu, kind) = self.by_time.first()?;
        if deadline > now {
            return None;
        }
        match self.periods.get(&vcpu).copied().filter(|_| kind == TimerKind::Periodic) {
            Some(period) => self.set_period(vcpu, Some(period), now),
            None => self.set(vcpu, kind, None),
        }
        Some((vcpu, kind))
    }

    /// Stops all of a vCPU's.
    pub fn forget(&mut self, vcpu: VcpuKey) {
        [TimerKind::Singleshot, TimerKind::Poll].into_iter().for_each(|kind| self.set(vcpu, kind, None));
        self.set_period(vcpu, None, 0);
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
        timers.set_period(a, Some(10), 60);
        timers.forget(a);
        assert_eq!(timers.take_due(u64::MAX), None);
    }

    #[test]
    fn a_periodic_timer_fires_until_it_is_stopped_and_makes_up_for_nothing() {
        let mut timers = Timers::default();
        let vcpu = VcpuKey { domain: DomId(1), vcpu: VcpuId(0) };
        timers.set_period(vcpu, Some(10), 100);
        timers.set(vcpu, TimerKind::Singleshot, Some(115));
        assert_eq!((timers.take_due(109), timers.take_due(110)), (None, Some((vcpu, TimerKind::Periodic))));
        assert_eq!(timers.take_due(118), Some((vcpu, TimerKind::Singleshot)));
        assert_eq!((timers.take_due(119), timers.take_due(155)), (None, Some((vcpu, TimerKind::Periodic))));
        assert_eq!((timers.take_due(155), timers.next()), (None, Some(165)));
        timers.set_period(vcpu, Some(3), 160);
        assert_eq!(timers.next(), Some(163));
        timers.set_period(vcpu, None, 161);
        assert_eq!((timers.take_due(u64::MAX), timers.next()), (None, None));
    }
}
