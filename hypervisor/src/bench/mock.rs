//! The floor of validating an entry: the least that any hypervisor with direct paging does for one. It checks that
//! the frame exists, counts one reference to it, and stores the entry.
//!
//! The count is an atomic one, since frames are shared between pcpus; the store needs no order, since a CPU that
//! walks the table sees it sooner or later.

use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{ENTRIES, Pte};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Words of the tables; a machine address is cut off to one of them.
const WORDS: usize = 16 * ENTRIES;

/// Frames and tables that are nobody's.
#[derive(Debug)]
pub struct Mock {
    counts: Vec<AtomicU32>,
    entries: Vec<AtomicU64>,
}

impl Mock {
    /// A mock of `frames` frames that nobody refers to yet.
    pub fn new(frames: u64) -> Self {
        let entries = (0..WORDS as u64).map(AtomicU64::new).collect();
        Self { counts: (0..frames).map(|_| AtomicU32::new(0)).collect(), entries }
    }

    /// Carries out a list of updates; how many were refused.
    pub fn apply(&self, updates: &[MmuUpdate]) -> usize {
        updates.iter().filter(|update| !self.update(update)).count()
    }

    fn update(&self, update: &MmuUpdate) -> bool {
        let place = update.ptr as usize / 8 % WORDS;
        let (Some(count), Some(entry)) =
            (self.counts.get(Pte(update.val).mfn().0 as usize), self.entries.get(place))
        else {
            return false;
        };
        count.fetch_add(1, Ordering::Relaxed);
        entry.store(update.val, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_is_refused_and_all_else_counted_and_stored() {
        let mock = Mock::new(8);
        let update = |frame: u64| MmuUpdate { ptr: 0x3010, val: frame << 12 | 7 };
        assert_eq!(mock.apply(&[update(7), update(8), update(7)]), 1);
        assert_eq!(mock.counts[7].load(Ordering::Relaxed), 2);
        assert_eq!(mock.entries[0x3010 / 8].load(Ordering::Relaxed), 7 << 12 | 7);
    }
}
