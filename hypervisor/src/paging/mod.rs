//! Direct paging: guests' own page tables are what the machine walks, so every entry is checked before it counts.
//!
//! This is what keeps domains apart; nothing else does. Invariants, each with the test that guards it:
//!
//! 1. **A reference outlives every translation that it justified.** A present entry is replaced in memory, the
//!    changes are settled, and only then are the references of the old entries given back ([`Batch`]); a table is
//!    retired before the references of its entries are. So a frame without references is reached by nobody, and a
//!    frame may change its type without a further flush (`tests::witness` sees the order in every test;
//!    `tests::stale` has every cell, with and without sabotage).
//! 2. Every present entry of a valid table holds a reference: to a table of the level below, to a writable frame,
//!    or to any frame that it maps read-only. Of a table being validated or devalidated, the entries below its
//!    progress mark do ([`Mmu::audit`], after every test; `tests::random` interrupts after every step).
//! 3. A frame is never writable and a table at once, by any path (`tests::refusals`, `frame::word::tests`).
//! 4. An entry names frames of the domain that owns the table only (`tests::refusals`), or one that another domain
//!    lends, with the reference that came with it ([`lent`]).
//! 5. Work per call is bounded by its [`Budget`]. What is left over stays recorded in the frame table and in the
//!    domain's list of deferred work, and every later call of the domain first goes on with that
//!    (`tests::preemption`).
//! 6. Contents of guest memory are read once into a local, and the local is checked (`hypercall::tests::fuzz` changes
//!    what was read directly afterwards).
//!
//! What all of this accepts and refuses is what the reference model in `tests/model` accepts and refuses.
//!
//! Locks ([`crate::lock`]): a domain's space, never two at a time; within it, the frame table's free list, and
//! whatever [`Translations`] takes. Page-table entries of a domain, and the table types of its frames, change under
//! its space's lock only. While it is held, nothing is waited for but settling.
#![forbid(unsafe_code)]

mod audit;
mod batch;
mod budget;
mod copy;
mod counters;
mod descriptors;
mod doorbells;
mod entry;
mod frames;
mod lent;
mod pin;
mod release;
mod roots;
mod snapshot;
mod space;
mod stale;
mod store;
mod teardown;
mod update;
mod validate;
mod walk;

#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use budget::{Budget, Progress};
pub use copy::BadAddress;
pub use counters::{Counters, CountersNow};
pub use descriptors::validate_descriptor;
pub use lent::{EntryPlace, EntryTarget};
pub use roots::Roots;
pub use snapshot::Snapshot;
pub use walk::Mapping;

use crate::frame::FrameTable;
use crate::machine::{Layout, MachineError, MachineMemory, Translations};
use std::sync::Arc;

/// All page tables of the machine, and the frames below them.
#[derive(Debug)]
pub struct Mmu {
    memory: Arc<MachineMemory>,
    layout: Arc<Layout>,
    frames: FrameTable,
    translations: Arc<dyn Translations>,
    spaces: space::Spaces,
    doorbell_pages: doorbells::DoorbellPages,
    counters: Counters,
}

impl Mmu {
    /// Takes the machine over. The hypervisor's frames are its own for ever, all others are free.
    pub fn new(memory: Arc<MachineMemory>, layout: Arc<Layout>, translations: Arc<dyn Translations>) -> Self {
        let frames = FrameTable::new(Arc::clone(&memory), &layout);
        let (spaces, counters) = Default::default();
        let doorbell_pages = doorbells::DoorbellPages::new(layout.doorbell_pages.len());
        Self { memory, layout, frames, translations, spaces, doorbell_pages, counters }
    }

    /// The machine's memory. Whoever writes a guest's frame through it holds a writable reference.
    pub fn memory(&self) -> &Arc<MachineMemory> {
        &self.memory
    }

    /// Where things are in the machine.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// What is known of all frames.
    pub fn frames(&self) -> &FrameTable {
        &self.frames
    }

    /// Flushes all translations of a guest that asked for it. What updates took away needs no such flush.
    ///
    /// # Errors
    /// The machine's.
    pub fn flush(&self) -> Result<(), MachineError> {
        self.translations.flush()
    }

    /// What was done since the machine's start, counted.
    pub fn counters(&self) -> CountersNow {
        self.counters.now()
    }
}
