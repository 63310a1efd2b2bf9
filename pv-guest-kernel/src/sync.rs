//! Kernel state that several modules reach: one owner at a time, checked.
//!
//! The kernel runs on one vCPU and is never interrupted (see `arch::trap`), so exclusion needs no lock;
//! what remains is to notice a function that, while it holds a state, comes back to it.

use core::cell::RefCell;

/// A value that belongs to the one vCPU.
pub struct Local<T>(RefCell<T>);

// SAFETY: one vCPU and no preemption of kernel code: no two accesses happen at the same time. Access
// within an access is caught by the `RefCell`.
unsafe impl<T> Sync for Local<T> {}
// SAFETY: as above; there is no other thread to send it to.
unsafe impl<T> Send for Local<T> {}

impl<T> Local<T> {
    /// Wraps `value`.
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
