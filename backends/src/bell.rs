//! What wakes a thread that waits for work: a back-end for a notification of its front-end, input from the host or the
//! wish to stop it; the hypervisor's reaper for the end of a domain.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bell that stays rung until somebody heard it. One thread listens; any thread rings.
///
/// Nobody sleeps through a ring: the ringer sets `rung`, then reads `listening`; the listener sets `listening`, then
/// reads `rung`. One of the two sees the other, and the lock keeps the wake-up from coming before the sleep.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    listening: AtomicBool,
    lock: Mutex<()>,
    condition: Condvar,
}

impl Bell {
    /// Rings. Costs no system call while the listener is awake.
    pub fn ring(&self) {
        self.rung.store(true, SeqCst);
        if self.listening.load(SeqCst) {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.condition.notify_one();
        }
    }

    /// Sleeps until the bell is rung, or returns at once where it was since the last time.
    pub fn listen(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.listening.store(true, SeqCst);
        while !self.rung.swap(false, SeqCst) {
            guard = self.condition.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.listening.store(false, SeqCst);
    }

    /// As [`Self::listen`], but not for longer than `limit`: false where nothing was heard.
    pub fn listen_for(&self, limit: Duration) -> bool {
        let started = Instant::now();
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.listening.store(true, SeqCst);
        let heard = loop {
            if self.rung.swap(false, SeqCst) {
                break true;
            }
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                break false;
            }
            guard = self.condition.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        self.listening.store(false, SeqCst);
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// Two threads take turns; a ring that got lost would make this hang.
    #[test]
    fn no_ring_is_slept_through() {
        const ROUNDS: u32 = 2000;
        let (there, back, count) = (Bell::default(), Bell::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    there.listen();
                    count.fetch_add(1, SeqCst);
                    back.ring();
                }
            });
            for round in 1..=ROUNDS {
                there.ring();
                back.listen();
                assert_eq!(count.load(SeqCst), round);
            }
        });
    }

    #[test]
    fn patience_has_an_end() {
        let bell = Bell::default();
        assert!(!bell.listen_for(Duration::from_millis(1)));
        bell.ring();
        assert!(bell.listen_for(Duration::ZERO), "a ring before counts");
    }
}
