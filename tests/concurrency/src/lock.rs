//! The hypervisor's `lock`, without ranks: a test has one lock.

pub use hypervisor::lock::Rank;
use shuttle::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

#[derive(Debug)]
pub struct Ranked<T>(Mutex<T>);

pub struct Guard<'a, T>(MutexGuard<'a, T>);

impl<T> Ranked<T> {
    pub fn new(_: Rank, value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Whatever its place in the order.
    pub fn ordered(rank: Rank, _: u32, value: T) -> Self {
        Self::new(rank, value)
    }

    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock().ok().map(Guard)
    }

    pub fn lock(&self) -> Guard<'_, T> {
        Guard(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Guard<'_, T> {
    /// No time passes here: whoever sleeps with a limit sleeps until it is woken.
    #[must_use]
    pub fn wait(self, wake: &Condvar, _: Option<Duration>) -> Self {
        Self(wake.wait(self.0).unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
