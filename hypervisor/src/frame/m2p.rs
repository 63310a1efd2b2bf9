//! The machine-to-physical table: for every frame of the machine, the pfn that its owner calls it by. Guests read
//! it, all of it, and cannot rely on it: a domain sets the entries of its own frames to whatever it likes, and the
//! hypervisor never believes one.

use crate::machine::{Layout, MachineMemory};
use pv_abi::{Mfn, PAGE_SIZE, Pfn};
use std::ops::Range;
use std::sync::Arc;

/// Entries in one frame of the table.
const ENTRIES: u64 = PAGE_SIZE as u64 / 8;

/// The table, in the machine's memory.
#[derive(Debug)]
pub struct MachineToPhys {
    memory: Arc<MachineMemory>,
    frames: Range<u64>,
}

impl MachineToPhys {
    /// Fills the table: no frame has a pfn. That touches 1/512 of the machine's memory.
    pub fn new(memory: Arc<MachineMemory>, layout: &Layout) -> Self {
        let table = Self { memory, frames: layout.m2p.clone() };
        for frame in table.frames.clone() {
            table.memory.write(Mfn(frame), 0, &[0xff; PAGE_SIZE]).unwrap_or_else(|error| {
                debug_assert!(false, "the layout puts the M2P outside of memory: {error}");
            });
        }
        table
    }

    fn place(&self, mfn: Mfn) -> Option<(Mfn, usize)> {
        let frame = self.frames.start.checked_add(mfn.0 / ENTRIES)?;
        self.frames.contains(&frame).then_some((Mfn(frame), ((mfn.0 % ENTRIES) << 3) as usize))
    }

    /// The pfn of a frame; [`Pfn::INVALID`] where it has none.
    pub fn get(&self, mfn: Mfn) -> Pfn {
        let entry = self.place(mfn).and_then(|(frame, offset)| self.memory.load_u64(frame, offset).ok());
        entry.map_or(Pfn::INVALID, Pfn)
    }

    /// Sets the pfn of a frame. A frame that the table has no entry for keeps none.
    pub fn set(&self, mfn: Mfn, pfn: Pfn) {
        if let Some((frame, offset)) = self.place(mfn) {
            let stored = self.memory.store_u64(frame, offset, pfn.0);
            debug_assert!(stored.is_ok(), "the layout puts the M2P outside of memory");
        }
    }
}
