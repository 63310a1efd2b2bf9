//! Kernel state that several modules reach: one owner at a time, checked.
//!
//! Kernel code runs on one vCPU at a time (see `sched::lock`) and is never interrupted (see `arch::trap`), so exclusion
//! needs no further lock; what remains is to notice a function that, while it holds a state, comes back to it.

use core::cell::RefCell;

/// A value that belongs to whoever has the kernel.
pub struct Local<T>(RefCell<T>);

// SAFETY: one vCPU at a time has the kernel, and its code is not preempted: no two accesses happen at the same time.
// Access within an access is caught by the `RefCell`.
unsafe impl<T> Sync for Local<T> {}
// SAFETY: as above; where a vCPU gets the kernel, it sees all that the last one has done there.
unsafe impl<T> Send for Local<T> {}

impl<T> Local<T> {
    /// Makes the state of `value`, which is lent to nobody yet.
    pub const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Lends the value to `f`. Panics if it is lent already: that is a bug of the kernel.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }

    /// Lends the value to `f` unless it is lent already: for the panic path.
    pub fn try_with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.try_borrow_mut().ok().map(|mut value| f(&mut value))
    }
}
