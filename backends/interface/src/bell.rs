//! What wakes a thread that waits for work: a back-end for a notification of its front-end, input from the host or the
//! wish to stop it; the hypervisor's reaper for the end of a domain.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bell that stays rung until somebody heard it. One thread listens; any thread rings.
///
/// Nobody sleeps through a ring: the ringer sets `rung`, then reads `listening`; the listener sets `listening`, then
/// reads `rung`. One of the two sees the other, and the lock, or the descriptor's counter, keeps the wake-up from
/// coming before the sleep.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    listening: AtomicBool,
    sleep: Sleep,
}

/// Where the listener sleeps.
#[derive(Debug)]
enum Sleep {
    Condition(Mutex<()>, Condvar),
    Descriptor(OwnedFd),
}

impl Default for Sleep {
    fn default() -> Self {
        Self::Condition(Mutex::default(), Condvar::default())
    }
}

impl Bell {
    /// A bell that the host's kernel can ring as well, by [`Self::descriptor`].
    ///
    /// # Errors
    /// Where the host has no descriptor left.
    pub fn with_descriptor() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { sleep: Sleep::Descriptor(descriptor), ..Self::default() })
    }

    /// The eventfd that rings it, of a bell that has one.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.sleep {
            Sleep::Condition(..) => None,
            Sleep::Descriptor(descriptor) => Some(descriptor.as_fd()),
        }
    }

    /// Rings. Costs no system call while the listener is awake.
    pub fn ring(&self) {
        self.rung.store(true, SeqCst);
        if self.listening.load(SeqCst) {
            self.sleep.wake();
        }
    }

    /// Sleeps until the bell is rung, or returns at once where it was since the last time. With a descriptor it may
    /// return once more for the same ring: the listener looks for work, and listens again where there is none.
    pub fn listen(&self) {
        self.listen_until(None);
    }

    /// As [`Self::listen`], but not for longer than `limit`: false where nothing was heard.
    pub fn listen_for(&self, limit: Duration) -> bool {
        self.listen_until(Instant::now().checked_add(limit))
    }

    fn listen_until(&self, until: Option<Instant>) -> bool {
        self.listening.store(true, SeqCst);
        let heard = self.sleep.wait(until, || self.rung.swap(false, SeqCst));
        self.listening.store(false, SeqCst);
        heard
    }
}

impl Sleep {
    fn wake(&self) {
        match self {
            Self::Condition(lock, condition) => {
                let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
                condition.notify_one();
            }
            // A counter that is full wakes as well.
            Self::Descriptor(descriptor) => drop(rustix::io::write(descriptor, &1u64.to_ne_bytes())),
        }
    }

    /// Sleeps until `rung`, or the descriptor is signalled, or it is `until`; false where it was that.
    fn wait(&self, until: Option<Instant>, rung: impl Fn() -> bool) -> bool {
        match self {
            Self::Condition(lock, condition) => {
                let mut guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
                while !rung() {
                    let left = left(until);
                    if left == Some(Duration::ZERO) {
                        return false;
                    }
                    guard = match left {
                        None => condition.wait(guard).unwrap_or_else(PoisonError::into_inner),
                        Some(left) => {
                            condition.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
                        }
                    };
                }
                true
            }
            Self::Descriptor(descriptor) => loop {
                // What was signalled before is heard now: whoever listens looks at everything when it returns.
                let signalled = rustix::io::read(descriptor, &mut [0; 8]).is_ok();
                if rung() || signalled {
                    return true;
                }
                let left = left(until);
                if left == Some(Duration::ZERO) {
                    return false;
                }
                let timeout = left.and_then(|left| Timespec::try_from(left).ok());
                // Interrupted or not: the loop looks again.
                let _ = poll(&mut [PollFd::new(descriptor, PollFlags::IN)], timeout.as_ref());
            },
        }
    }
}

fn left(until: Option<Instant>) -> Option<Duration> {
    until.map(|until| until.saturating_duration_since(Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn kinds() -> [[Bell; 2]; 2] {
        let with_descriptor = || Bell::with_descriptor().unwrap();
        [[Bell::default(), Bell::default()], [with_descriptor(), with_descriptor()]]
    }

    /// Two threads take turns; a ring that got lost would make this hang. A bell with a descriptor may be heard once
    /// more for a ring that was heard before, so each looks whether it is its turn.
    #[test]
    fn no_ring_is_slept_through() {
        const TURNS: u32 = 4000;
        for [there, back] in kinds() {
            let turn = AtomicU32::new(0);
            let take_turns = |own: u32, bell: &Bell, other: &Bell| {
                while turn.load(SeqCst) < TURNS {
                    if turn.load(SeqCst) % 2 == own {
                        turn.fetch_add(1, SeqCst);
                        other.ring();
                    } else {
                        bell.listen();
                    }
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(|| take_turns(1, &there, &back));
                take_turns(0, &back, &there);
            });
        }
    }

    #[test]
    fn a_descriptor_can_be_heard_again_for_a_ring_that_was_heard() {
        let bell = Bell::with_descriptor().unwrap();
        bell.ring();
        assert!(bell.listen_for(Duration::ZERO));
        // The ringer's second half, that comes late.
        bell.sleep.wake();
        assert!(bell.listen_for(Duration::ZERO));
        assert!(!bell.listen_for(Duration::ZERO), "no more than once");
    }

    #[test]
    fn patience_has_an_end() {
        for [bell, _] in kinds() {
            assert!(!bell.listen_for(Duration::from_millis(1)));
            bell.ring();
            assert!(bell.listen_for(Duration::ZERO), "a ring before counts");
            assert!(!bell.listen_for(Duration::ZERO), "once");
        }
    }

    #[test]
    fn the_kernel_can_ring() {
        let bell = Bell::with_descriptor().unwrap();
        rustix::io::write(bell.descriptor().unwrap(), &3u64.to_ne_bytes()).unwrap();
        bell.listen();
        assert!(!bell.listen_for(Duration::ZERO), "all of it was heard");
        assert!(Bell::default().descriptor().is_none());
    }
}
