//! Doorbells: stores of guests that signal an eventfd without leaving the machine.

use super::MachineError;
use std::fmt::Debug;
use std::os::fd::BorrowedFd;

/// Hangs doorbells up and takes them down.
///
/// A doorbell is a page of [`super::Layout::doorbell_pages`] and a value. A page is mapped in the domain that has it and in
/// no other, so a domain rings its own doorbells only.
pub trait Doorbells: Debug + Send + Sync {
    /// From now on, a 4-byte store of `value` at the start of the page signals `bell`, an eventfd.
    ///
    /// # Errors
    /// The host's: it has no room, or the doorbell is hung up already.
    fn hang(&self, page: usize, value: u32, bell: BorrowedFd<'_>) -> Result<(), MachineError>;

    /// Ends that: when this has returned, no such store signals `bell`, nor is one about to.
    ///
    /// # Errors
    /// The host's: the doorbell does not hang there.
    fn take_down(&self, page: usize, value: u32, bell: BorrowedFd<'_>) -> Result<(), MachineError>;
}
