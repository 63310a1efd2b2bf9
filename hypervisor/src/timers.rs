//! Timers of vCPUs: absolute system times. Each vCPU has one of each kind.

use crate::alarm::Alarm;
use crate::lock::{Guard, Rank, Ranked};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::vcpu::VcpuKey;
use pv_abi::{DomId, VcpuId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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

/// All timers that are set, and who wakes when the next one is due.
#[derive(Debug)]
pub struct Timers {
    queue: Ranked<Queue>,
    /// When the next one is due: while none is, nobody takes the lock.
    next: AtomicU64,
    alarm: Arc<Alarm>,
}

impl Timers {
    /// None is set. `alarm` wakes whoever takes those that are due.
    pub fn new(alarm: Arc<Alarm>) -> Self {
        Self { queue: Ranked::new(Rank::Timers, Queue::default()), next: AtomicU64::new(u64::MAX), alarm }
    }

    /// Changes which are set.
    fn change<R>(&self, change: impl FnOnce(&mut Guard<'_, Queue>) -> R) -> R {
        let mut queue = self.queue.lock();
        let changed = change(&mut queue);
        let next = queue.next().unwrap_or(u64::MAX);
        self.next.store(next, Ordering::SeqCst);
        self.alarm.no_later_than(next);
        changed
    }

    /// Sets a timer to a system time, or stops it. One in the past is due at once: the caller's pcpu looks before it enters
    /// a guest.
    pub fn set(&self, vcpu: VcpuKey, kind: TimerKind, deadline: Option<u64>) {
        self.change(|queue| queue.set(vcpu, kind, deadline));
    }

    /// Sets a vCPU's periodic timer, which fires first a period from `now`, or stops it. A period is in nanoseconds, and
    /// not 0.
    pub fn set_period(&self, vcpu: VcpuKey, period: Option<u64>, now: u64) {
        self.change(|queue| queue.set_period(vcpu, period, now));
    }

    /// When the next one is due; `u64::MAX` while none is set.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Takes one that is due. A periodic one is set again; what it has missed it does not make up for.
    pub fn take_due(&self, now: u64) -> Option<(VcpuKey, TimerKind)> {
        if self.next() > now {
            return None;
        }
        self.change(|queue| queue.take_due(now))
    }

    /// Stops all of a domain's, none of whose vCPUs sets one any more: its number may be used again.
    pub fn forget(&self, domain: DomId) {
        self.change(|queue| queue.forget(domain));
    }
}

/// Those that are set, by time and by owner.
#[derive(Debug, Default)]
struct Queue {
    by_time: BTreeSet<(u64, VcpuKey, TimerKind)>,
    by_owner: BTreeMap<(VcpuKey, TimerKind), u64>,
    /// Nanoseconds between two firings of periodic ones.
    periods: BTreeMap<VcpuKey, u64>,
}

impl Queue {
    /// Sets a timer to a system time, or stops it.
    fn set(&mut self, vcpu: VcpuKey, kind: TimerKind, deadline: Option<u64>) {
        if let Some(old) = self.by_owner.remove(&(vcpu, kind)) {
            self.by_time.remove(&(old, vcpu, kind));
        }
        if let Some(deadline) = deadline {
            self.by_owner.insert((vcpu, kind), deadline);
            self.by_time.insert((deadline, vcpu, kind));
        }
    }

    /// Sets a vCPU's periodic timer, which fires first a period from `now`, or stops it. A period is not 0.
    fn set_period(&mut self, vcpu: VcpuKey, period: Option<u64>, now: u64) {
        match period {
            Some(period) => self.periods.insert(vcpu, period),
            None => self.periods.remove(&vcpu),
        };
        self.set(vcpu, TimerKind::Periodic, period.map(|period| now.saturating_add(period)));
    }

    /// When the next one is due.
    fn next(&self) -> Option<u64> {
        self.by_time.first().map(|&(deadline, ..)| deadline)
    }

    /// Takes one that is due. A periodic one is set again; what it has missed it does not make up for.
    fn take_due(&mut self, now: u64) -> Option<(VcpuKey, TimerKind)> {
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

    fn forget(&mut self, domain: DomId) {
        let all = |vcpu| VcpuKey { domain, vcpu: VcpuId(vcpu) };
        let first = (all(0), TimerKind::Singleshot);
        let its: Vec<_> =
            self.by_owner.range(first..=(all(u32::MAX), TimerKind::Poll)).map(|(&its, _)| its).collect();
        its.into_iter().for_each(|(vcpu, kind)| self.set(vcpu, kind, None));
        self.periods.retain(|vcpu, _| vcpu.domain != domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;

    fn timers() -> Timers {
        Timers::new(Arc::new(Alarm::new(Arc::new(FakeClock::default()))))
    }

    #[test]
    fn timers_fire_in_order_and_once_and_the_last_setting_counts() {
        let timers = timers();
        let [a, b] = [1, 2].map(|domain| VcpuKey { domain: DomId(domain), vcpu: VcpuId(0) });
        timers.set(a, TimerKind::Singleshot, Some(50));
        timers.set(a, TimerKind::Singleshot, Some(30));
        timers.set(b, TimerKind::Poll, Some(20));
        timers.set(b, TimerKind::Singleshot, Some(40));
        assert_eq!((timers.next(), timers.take_due(19)), (20, None));
        timers.set(b, TimerKind::Singleshot, None);
        assert_eq!(timers.take_due(60), Some((b, TimerKind::Poll)));
        assert_eq!(timers.take_due(60), Some((a, TimerKind::Singleshot)));
        assert_eq!((timers.take_due(60), timers.next()), (None, u64::MAX));
        for kind in [TimerKind::Singleshot, TimerKind::Poll] {
            timers.set(a, kind, Some(0));
        }
        timers.set_period(a, Some(10), 60);
        timers.set(b, TimerKind::Singleshot, Some(80));
        timers.forget(a.domain);
        assert_eq!(timers.next(), 80);
        timers.set(a, TimerKind::Periodic, Some(70));
        assert_eq!(timers.take_due(75), Some((a, TimerKind::Periodic)));
        timers.set(b, TimerKind::Singleshot, None);
        assert_eq!(timers.next(), u64::MAX, "nor is its period left");
    }

    #[test]
    fn the_alarm_is_told_of_each_timer_that_is_the_next() {
        let timers = timers();
        let vcpu = VcpuKey { domain: DomId(1), vcpu: VcpuId(0) };
        timers.set(vcpu, TimerKind::Poll, Some(50));
        assert_eq!(timers.alarm.at(), 50);
        timers.set_period(vcpu, Some(10), 20);
        assert_eq!(timers.alarm.at(), 30);
        timers.alarm.sleeps_until(u64::MAX);
        assert!(timers.take_due(35).is_some());
        assert_eq!(timers.alarm.at(), 45, "the next period");
    }

    #[test]
    fn a_periodic_timer_fires_until_it_is_stopped_and_makes_up_for_nothing() {
        let timers = timers();
        let vcpu = VcpuKey { domain: DomId(1), vcpu: VcpuId(0) };
        timers.set_period(vcpu, Some(10), 100);
        timers.set(vcpu, TimerKind::Singleshot, Some(115));
        assert_eq!((timers.take_due(109), timers.take_due(110)), (None, Some((vcpu, TimerKind::Periodic))));
        assert_eq!(timers.take_due(118), Some((vcpu, TimerKind::Singleshot)));
        assert_eq!((timers.take_due(119), timers.take_due(155)), (None, Some((vcpu, TimerKind::Periodic))));
        assert_eq!((timers.take_due(155), timers.next()), (None, 165));
        timers.set_period(vcpu, Some(3), 160);
        assert_eq!(timers.next(), 163);
        timers.set_period(vcpu, None, 161);
        assert_eq!((timers.take_due(u64::MAX), timers.next()), (None, u64::MAX));
    }
}
