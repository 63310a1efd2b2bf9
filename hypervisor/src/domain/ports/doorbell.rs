//! A doorbell of the machine's, for as long as a port has it.

use super::HostPort;
use crate::machine::{Doorbells, MachineError};
use std::fmt;
use std::sync::Arc;

/// A doorbell that hangs, and is taken down when this is dropped.
pub struct Doorbell {
    doorbells: Arc<dyn Doorbells>,
    page: usize,
    value: u32,
    /// Whose eventfd it signals: open until then.
    end: Arc<dyn HostPort>,
}

impl Doorbell {
    /// Hangs up a doorbell on `page`: a store of `value` there signals the eventfd of `end`. None where `end` has none.
    ///
    /// # Errors
    /// The host's.
    pub fn hang(
        doorbells: &Arc<dyn Doorbells>,
        page: usize,
        value: u32,
        end: &Arc<dyn HostPort>,
    ) -> Option<Result<Self, MachineError>> {
        let hung = doorbells.hang(page, value, end.eventfd()?);
        Some(hung.map(|()| Self { doorbells: Arc::clone(doorbells), page, value, end: Arc::clone(end) }))
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "doorbell {} of page {}", self.value, self.page)
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        let Some(eventfd) = self.end.eventfd() else { return };
        if let Err(error) = self.doorbells.take_down(self.page, self.value, eventfd) {
            tracing::error!(target: crate::defect::TARGET, %error, doorbell = ?self, "a doorbell stays where it hangs");
        }
    }
}
