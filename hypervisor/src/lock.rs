//! Locks with a rank: a thread takes them in rising order only, which a debug build checks at each lock.
//!
//! Ranks, outermost first. A lock of the same rank is taken after one with a smaller order number (a domid).
//!
//! | rank | what it guards |
//! |---|---|
//! | [`Rank::HostChannels`] | the host domain's ends of event channels |
//! | [`Rank::Vcpu`] | a vCPU's private state; held by the pcpu thread for as long as the vCPU is on its pcpu |
//! | [`Rank::Registry`] | which domains exist |
//! | [`Rank::Ports`] | a domain's event channels; both ends in domid order |
//! | [`Rank::Maptrack`] | what a domain has mapped of others |
//! | [`Rank::Grants`] | a domain's grant table |
//! | [`Rank::VcpuInfo`] | what keeps the frame of a `vcpu_info` that has moved |
//! | [`Rank::Scheduler`] | who runs where |
//! | [`Rank::Timers`] | the timers of all vCPUs |
//! | [`Rank::Alarm`] | when the alarm's thread wakes |
//! | [`Rank::Life`] | how far a domain's life has come |
//! | [`Rank::Space`] | a domain's page tables, and the types of its frames; one domain's at a time |
//! | [`Rank::FrameLists`] | which frames each domain has, and which nobody |
//! | [`Rank::DoorbellPages`] | which domain has which doorbell page |
//!
//! Inside all of these lie the machine's locks, those of bells, those of consoles and of messages (a vCPU writes there), and
//! which domains have page tables (`paging::space`, a lock for readers and a writer). Locks that keep the handles of threads
//! (`trace`, `control`), those of back-ends and that of the store lie outside: none of them is taken under one of these.
//!
//! A guest cannot make a lock's holder panic, so a poisoned lock is somebody else's bug, and its data is used as it is.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// See the table at the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Rank {
    HostChannels,
    Vcpu,
    Registry,
    Ports,
    Maptrack,
    Grants,
    VcpuInfo,
    Scheduler,
    Timers,
    Alarm,
    Life,
    Space,
    FrameLists,
    DoorbellPages,
}

thread_local! {
    static HELD: RefCell<Vec<(Rank, u32)>> = const { RefCell::new(Vec::new()) };
}

/// A mutex with its place in the order of locks.
#[derive(Debug)]
pub struct Ranked<T> {
    place: (Rank, u32),
    inner: Mutex<T>,
}

/// The lock is held while this lives.
#[derive(Debug)]
pub struct Guard<'a, T> {
    inner: MutexGuard<'a, T>,
    held: Held,
}

/// A place on the thread's list of held locks, given up on drop.
#[derive(Debug)]
struct Held((Rank, u32));

impl Held {
    fn enter(place: (Rank, u32)) -> Self {
        if cfg!(debug_assertions) {
            HELD.with_borrow_mut(|held| {
                let above = held.iter().all(|&other| other < place);
                assert!(above, "lock {place:?} taken while holding {held:?}");
            });
        }
        Self::note(place)
    }

    fn note(place: (Rank, u32)) -> Self {
        if cfg!(debug_assertions) {
            HELD.with_borrow_mut(|held| held.push(place));
        }
        Self(place)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            HELD.with_borrow_mut(|held| {
                if let Some(last) = held.iter().rposition(|&other| other == self.0) {
                    held.remove(last);
                }
            });
        }
    }
}

impl<T> Ranked<T> {
    /// A lock of `rank`, the only one of its rank that a thread holds at a time.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self::ordered(rank, 0, value)
    }

    /// A lock of `rank` that is taken after those of its rank with a smaller `order`.
    pub const fn ordered(rank: Rank, order: u32, value: T) -> Self {
        Self { place: (rank, order), inner: Mutex::new(value) }
    }

    /// Takes the lock if nobody has it. That waits for nobody, so it is allowed whatever the thread holds.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Guard { inner, held: Held::note(self.place) })
    }

    /// Waits until the lock is free, and takes it. A debug build panics where that breaks the order of ranks.
    pub fn lock(&self) -> Guard<'_, T> {
        let held = Held::enter(self.place);
        Guard { inner: self.inner.lock().unwrap_or_else(PoisonError::into_inner), held }
    }
}

impl<'a, T> Guard<'a, T> {
    /// Gives the lock up until `wake` is notified or `timeout` is over, and takes it again.
    pub fn wait(self, wake: &Condvar, timeout: Option<Duration>) -> Self {
        let Self { inner, held } = self;
        let inner = match timeout {
            None => wake.wait(inner).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => wake.wait_timeout(inner, limit).unwrap_or_else(PoisonError::into_inner).0,
        };
        Self { inner, held }
    }

    /// The place of the lock in the order.
    pub fn rank(&self) -> Rank {
        self.held.0.0
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_nest_in_rising_order_and_can_be_taken_again() {
        let outer = Ranked::new(Rank::Vcpu, 1);
        let (low, high) = (Ranked::ordered(Rank::Ports, 1, 2), Ranked::ordered(Rank::Ports, 2, 3));
        for _ in 0..2 {
            let (a, b, c) = (outer.lock(), low.lock(), high.lock());
            assert_eq!((*a, *b, *c, b.rank()), (1, 2, 3, Rank::Ports));
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "while holding")]
    fn a_falling_rank_is_caught() {
        let (outer, inner) = (Ranked::new(Rank::Vcpu, ()), Ranked::new(Rank::Scheduler, ()));
        let _inner = inner.lock();
        let _outer = outer.lock();
    }

    /// Two domains' tables have places of their own; two locks of one place would wait for each other one day.
    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "while holding")]
    fn a_second_lock_of_the_same_place_is_caught() {
        let [one, other] = [1, 2].map(|value| Ranked::ordered(Rank::Ports, 7, value));
        let _one = one.lock();
        let _other = other.lock();
    }

    #[test]
    fn a_lock_that_is_only_tried_may_be_of_any_rank() {
        let [outer, inner] = [1, 2].map(|value| Ranked::new(Rank::Vcpu, value));
        let held = outer.lock();
        assert_eq!(inner.try_lock().map(|guard| *guard), Some(2));
        assert!(outer.try_lock().is_none());
        drop(held);
        let _again = outer.lock();
    }

    #[test]
    fn waiting_ends_at_the_timeout() {
        let lock = Ranked::new(Rank::Scheduler, 5);
        let guard = lock.lock().wait(&Condvar::new(), Some(Duration::from_millis(1)));
        assert_eq!(*guard, 5);
    }
}
