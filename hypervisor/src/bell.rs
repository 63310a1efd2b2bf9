//! A bell: many threads ring it, one waits for it. Rings before the wait count.

use std::sync::{Condvar, Mutex, PoisonError};

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    /// Wakes the one who waits, now or at its next wait.
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
    }

    /// Waits until it has been rung since the last wait.
    pub fn wait(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        while !std::mem::take(&mut *rung) {
            rung = self.wake.wait(rung).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
