//! A thread that sleeps until the earliest time that anybody has asked it for.

use crate::clock::Clock;
use crate::lock::{Rank, Ranked};
use crate::sync::Condvar;
use crate::sync::atomic::{AtomicU64, Ordering};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// See the head of this file. Times are system times.
pub struct Alarm {
    clock: Arc<dyn Clock>,
    stopping: Ranked<bool>,
    changed: Condvar,
    /// The earliest time that was asked for since the thread looked for itself. Whoever asks for a later one takes no lock.
    at: AtomicU64,
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Alarm {
    /// One that nobody has asked for a time yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let stopping = Ranked::new(Rank::Alarm, false);
        Self { clock, stopping, changed: Condvar::new(), at: AtomicU64::new(u64::MAX) }
    }

    /// When the thread wakes, or is to look for itself.
    pub fn at(&self) -> u64 {
        self.at.load(Ordering::SeqCst)
    }

    /// As if the thread slept until then.
    #[cfg(test)]
    pub fn sleeps_until(&self, at: u64) {
        self.at.store(at, Ordering::SeqCst);
    }

    /// The thread wakes at `at`, or before. Whoever calls has stored already what the thread is to see then.
    pub fn no_later_than(&self, at: u64) {
        if at >= self.at() {
            return;
        }
        let _lock = self.stopping.lock();
        if self.at.fetch_min(at, Ordering::SeqCst) > at {
            self.changed.notify_one();
        }
    }

    /// Sleeps until the time that `next` gives, or an earlier one that is asked for meanwhile. False when the machine stops.
    /// `next` looks at what those have stored who asked before.
    pub fn sleep(&self, next: impl FnOnce() -> u64) -> bool {
        // Whoever asks from here on is heard, and `next` sees what the others have stored.
        self.at.store(u64::MAX, Ordering::SeqCst);
        let next = next();
        let mut stopping = self.stopping.lock();
        self.at.fetch_min(next, Ordering::SeqCst);
        while !*stopping {
            let at = self.at();
            let left = at.saturating_sub(self.clock.now());
            if left == 0 {
                return true;
            }
            let limit = (at != u64::MAX).then(|| Duration::from_nanos(left));
            stopping = stopping.wait(&self.changed, limit);
        }
        false
    }

    /// The thread does not sleep any more.
    pub fn stop(&self) {
        *self.stopping.lock() = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{FakeClock, HostClock, SECOND};
    use crate::testing::{LIMIT, wait_until};
    use std::sync::mpsc::channel;
    use std::thread;

    /// What a sleep answers that is not to last.
    fn sleep(alarm: &Arc<Alarm>, next: impl FnOnce() -> u64 + Send + 'static) -> bool {
        let (sleeper, (woken, slept)) = (Arc::clone(alarm), channel());
        thread::spawn(move || woken.send(sleeper.sleep(next)));
        slept.recv_timeout(LIMIT).expect("it sleeps on")
    }

    #[test]
    fn what_is_due_is_not_slept_for() {
        let clock = Arc::new(FakeClock::default());
        let alarm = Arc::new(Alarm::new(clock.clone()));
        clock.advance(10);
        assert!(sleep(&alarm, || 10));
        // Asked for while the thread looked: `next` may not have seen it.
        let asks = Arc::clone(&alarm);
        let looks = move || {
            asks.no_later_than(5);
            asks.no_later_than(u64::MAX - 1);
            u64::MAX
        };
        assert!(sleep(&alarm, looks));
        alarm.stop();
        assert!(!sleep(&alarm, || 0));
    }

    #[test]
    fn who_sleeps_is_woken_for_an_earlier_time_and_to_stop() {
        let clock = Arc::new(HostClock::new(2_000_000));
        let alarm = Arc::new(Alarm::new(clock.clone()));
        let (sleeper, (woken, slept)) = (Arc::clone(&alarm), channel());
        let late = clock.now() + 3600 * SECOND;
        thread::spawn(move || while woken.send(sleeper.sleep(|| late)).is_ok() {});
        for _ in 0..100 {
            wait_until(|| alarm.at() == late);
            alarm.no_later_than(late + 1);
            assert!(slept.try_recv().is_err(), "it sleeps");
            alarm.no_later_than(0);
            assert_eq!(slept.recv_timeout(LIMIT), Ok(true));
        }
        alarm.stop();
        assert_eq!(slept.recv_timeout(LIMIT), Ok(false));
    }
}
