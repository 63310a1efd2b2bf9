//! Doorbells that a test rings itself.

use crate::machine::{Doorbells, MachineError};
use rustix::io::write;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The doorbells of a fake machine: a descriptor to write to for each page number and value.
#[derive(Debug, Default)]
pub struct FakeDoorbells(Mutex<BTreeMap<(usize, u32), OwnedFd>>);

impl FakeDoorbells {
    fn hung(&self) -> MutexGuard<'_, BTreeMap<(usize, u32), OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings as a guest does that has the page. False where nothing hangs there.
    pub fn ring(&self, page: usize, value: u32) -> bool {
        let hung = self.hung();
        hung.get(&(page, value)).is_some_and(|bell| write(bell, &1u64.to_ne_bytes()).is_ok())
    }

    /// How many doorbells hang, in all pages together.
    pub fn count(&self) -> usize {
        self.hung().len()
    }
}

fn refused() -> MachineError {
    MachineError::new("a fake machine's doorbells", std::io::Error::other("it hangs there, or does not"))
}

impl Doorbells for FakeDoorbells {
    fn hang(&self, page: usize, value: u32, bell: BorrowedFd<'_>) -> Result<(), MachineError> {
        let bell = bell.try_clone_to_owned().map_err(|error| MachineError::new("a descriptor", error))?;
        let before = self.hung().insert((page, value), bell);
        if before.is_none() { Ok(()) } else { Err(refused()) }
    }

    fn take_down(&self, page: usize, value: u32, _: BorrowedFd<'_>) -> Result<(), MachineError> {
        self.hung().remove(&(page, value)).map(|_| ()).ok_or_else(refused)
    }
}
