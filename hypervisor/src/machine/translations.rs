//! Making changed page tables take effect.

use super::MachineError;
use pv_abi::Mfn;
use pv_abi::page_table::{Level, Pte};
use std::fmt::Debug;

/// One entry that was present and has been replaced in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The page table that holds the entry.
    pub table: Mfn,
    /// The entry's index, below 512.
    pub index: u16,
    /// The level of that table.
    pub level: Level,
    /// What the entry was. What it is stands in memory.
    pub old: Pte,
}

/// How a machine makes changed page tables take effect. Which way works is found by a probe at start-up, so the
/// layers above know one rule only:
///
/// **A reference outlives every translation that it justified.** Whoever replaces a present entry stores the new
/// one ([`super::MachineMemory::exchange_entry`]), settles, and only then drops the references which the old
/// entry held. So a frame whose counts are zero can be reached by nobody.
pub trait Translations: Debug + Send + Sync {
    /// When this returns, no pcpu uses a translation that the old entries allowed and the present ones do not,
    /// neither to memory nor through a cached upper level. Entries that were not present need no settling.
    ///
    /// # Errors
    /// The host's. Then the domain that owns the tables must not run again, and its frames must not be given to
    /// anyone before the machine's end.
    fn settle(&self, changes: &[Change]) -> Result<(), MachineError>;

    /// To be called before a validated table stops being one, its entries still in place: whatever the machine
    /// derived from it is forgotten, so that the frame may hold data, or another table. That includes a root:
    /// after this, no pcpu has it loaded, not even one that is outside of guest mode.
    ///
    /// # Errors
    /// As [`Self::settle`].
    fn retire(&self, table: Mfn, level: Level) -> Result<(), MachineError>;

    /// Flushes all translations of a guest that asked for it; what the other two did needs no flush.
    ///
    /// # Errors
    /// As [`Self::settle`].
    fn flush(&self) -> Result<(), MachineError>;
}
