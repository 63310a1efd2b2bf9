//! A domain's grant table: frames in which it says what it lends to whom, and what of that is in use.
//!
//! Invariants, with the tests that guard them (below, and in [`crate::grant`]):
//! - its frames are given to the domain for its life, and never become page tables: the domain may map and write
//!   them (`the_tables_frames_are_never_page_tables`);
//! - the table only grows, to [`MAX_FRAMES`] at most (`a_table_grows_to_its_limit`), until it is closed for ever;
//! - an entry is marked as in use exactly while it has pins, unless the domain writes there itself.

use super::entry::{in_use, permit, status_of};
use crate::error::Refusal;
use crate::frame::Reference;
use crate::paging::Mmu;
use backend_interface::host::Access;
use pv_abi::grant_table::{ENTRIES_PER_FRAME, GrantEntry, GrantStatus};
use pv_abi::{DomId, Errno, GrantRef, Mfn};
use std::collections::BTreeMap;
use zerocopy::{FromBytes, IntoBytes};

/// Frames that a table can have.
pub const MAX_FRAMES: u32 = 32;
/// How often an entry may change under the hypervisor's hands before a pin gives up.
const TRIES: u32 = 4;

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct GrantTable {
    frames: Vec<Mfn>,
    active: BTreeMap<GrantRef, Active>,
    closed: bool,
}

/// An entry that is in use (an *active entry* of Xen's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// The domain that uses the entry.
    pub by: DomId,
    /// What it lent at the first pin.
    pub frame: Mfn,
    /// How many pins keep the entry in use for reading.
    pub readers: u32,
    /// How many pins keep the entry in use for writing.
    pub writers: u32,
}

impl Active {
    fn pins(&mut self, access: Access) -> &mut u32 {
        match access {
            Access::ReadOnly => &mut self.readers,
            Access::ReadWrite => &mut self.writers,
        }
    }
}

impl GrantTable {
    /// Makes the table of `domain` at least `frames` frames long.
    ///
    /// # Errors
    /// −EINVAL beyond [`MAX_FRAMES`], or where the domain has ended; −ENOMEM where the machine has no frame left.
    pub fn grow(&mut self, mmu: &Mmu, domain: DomId, frames: u32) -> Result<(), Refusal> {
        if frames > MAX_FRAMES || self.closed {
            return Err(Refusal::new(Errno::EINVAL, "a grant table has 32 frames at most"));
        }
        while self.frames.len() < frames as usize {
            self.frames.push(mmu.allocate_shared(domain)?);
        }
        Ok(())
    }

    /// The frames that the table lies in, in their order.
    pub fn frames(&self) -> &[Mfn] {
        &self.frames
    }

    /// Grants `frame` on the domain's behalf, before it runs: its console and its store.
    ///
    /// # Errors
    /// −EINVAL for a reference that the table has no entry for, or a frame that does not fit into one.
    pub fn permit(&self, mmu: &Mmu, reference: GrantRef, to: DomId, frame: Mfn) -> Result<(), Refusal> {
        const BAD: Refusal = Refusal::new(Errno::EINVAL, "no such entry in the grant table");
        let entry = GrantEntry::permit(to, frame).ok_or(BAD)?;
        let (table, offset) = self.slot(reference).ok_or(BAD)?;
        mmu.memory().write(table, offset, entry.as_bytes()).map_err(|_| BAD)
    }

    /// `by` starts to use an entry of this table, `granter`'s: marks it, and lends its frame. The reference is given
    /// back, wherever it went, before [`Self::unpin`].
    ///
    /// # Errors
    /// Xen's status, and nothing has changed.
    pub fn pin(
        &mut self,
        mmu: &Mmu,
        granter: DomId,
        reference: GrantRef,
        by: DomId,
        access: Access,
    ) -> Result<Reference, GrantStatus> {
        let present = self.active.get(&reference).copied();
        if present.is_some_and(|active| active.by != by) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let entry = self.mark(mmu, reference, by, access)?;
        // While it is pinned it stays the frame that it was, whatever the granter writes.
        let frame = present.map_or(Mfn(entry.frame.into()), |active| active.frame);
        let mut active = present.unwrap_or(Active { by, frame, readers: 0, writers: 0 });
        let lent = mmu.hold(granter, frame, access.is_writable()).map_err(status_of);
        let pins = active.pins(access).checked_add(1).ok_or(GrantStatus::NO_SPACE);
        match (lent, pins) {
            (Ok(lent), Ok(pins)) => {
                *active.pins(access) = pins;
                self.active.insert(reference, active);
                Ok(lent)
            }
            (lent, pins) => {
                let refused = pins.err().or(lent.as_ref().err().copied());
                lent.into_iter().for_each(|unused| mmu.release(unused));
                self.unmark(mmu, reference);
                Err(refused.unwrap_or(GrantStatus::GENERAL_ERROR))
            }
        }
    }

    /// A use ends: nothing can reach the frame by it any more.
    pub fn unpin(&mut self, mmu: &Mmu, reference: GrantRef, access: Access) {
        let Some(active) = self.active.get_mut(&reference) else {
            return debug_assert!(false, "{reference:?} was not pinned");
        };
        let pins = active.pins(access);
        debug_assert!(*pins != 0, "{reference:?} was not pinned for {access:?}");
        *pins = pins.saturating_sub(1);
        if active.readers == 0 && active.writers == 0 {
            self.active.remove(&reference);
        }
        self.unmark(mmu, reference);
    }

    /// The domain has ended: its frames are about to go, and nothing new is lent.
    pub fn close(&mut self) {
        self.closed = true;
        self.frames.clear();
    }

    /// The entries in use, for audits.
    pub const fn active(&self) -> &BTreeMap<GrantRef, Active> {
        &self.active
    }

    /// The frame that an entry lies in, and its offset there.
    fn slot(&self, reference: GrantRef) -> Option<(Mfn, usize)> {
        let table = self.frames.get((reference.0 / ENTRIES_PER_FRAME) as usize)?;
        let index = (reference.0 % ENTRIES_PER_FRAME) as usize;
        Some((*table, index.checked_mul(size_of::<GrantEntry>())?))
    }

    /// Marks an entry as in use, and returns it as it was read, at once.
    fn mark(
        &self,
        mmu: &Mmu,
        reference: GrantRef,
        by: DomId,
        access: Access,
    ) -> Result<GrantEntry, GrantStatus> {
        let (table, offset) = self.slot(reference).ok_or(GrantStatus::BAD_GNTREF)?;
        let memory = mmu.memory();
        for _ in 0..TRIES {
            let word = memory.load_u64(table, offset).map_err(|_| GrantStatus::BAD_GNTREF)?;
            #[cfg(any(test, fuzzing))]
            crate::testing::entry_was_read(mmu, table, offset);
            let entry = GrantEntry::read_from_bytes(word.as_bytes()).unwrap_or_default();
            let flags = permit(entry, by, access)?;
            // Flags and domain in one exchange: what was checked is what is marked.
            let half = |flags: u16| u32::from(flags) | u32::from(entry.domid) << 16;
            let exchanged = memory.compare_exchange_u32(table, offset, half(entry.flags), half(flags));
            if exchanged.map_err(|_| GrantStatus::BAD_GNTREF)? {
                return Ok(entry);
            }
        }
        Err(GrantStatus::GENERAL_ERROR)
    }

    /// Takes back the marks that no pin stands for.
    fn unmark(&self, mmu: &Mmu, reference: GrantRef) {
        let Some((table, offset)) = self.slot(reference) else { return };
        let left = match self.active.get(&reference) {
            None => 0,
            Some(active) if active.writers == 0 => in_use(Access::ReadOnly),
            Some(_) => in_use(Access::ReadWrite),
        };
        let gone = in_use(Access::ReadWrite) & !left;
        let cleared = mmu.memory().fetch_and_u64(table, offset, !u64::from(gone));
        debug_assert!(cleared.is_ok(), "a grant table's frame is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;
    use pv_abi::page_table::Level;

    #[test]
    fn a_table_grows_to_its_limit() {
        let mut world = World::new();
        let guest = world.guest();
        let mmu = &world.services.mmu;
        let mut table = GrantTable::default();
        table.grow(mmu, guest.domain.id(), 2).unwrap();
        table.grow(mmu, guest.domain.id(), 1).unwrap();
        assert_eq!(table.frames().len(), 2, "it never shrinks");
        assert_eq!(table.grow(mmu, guest.domain.id(), MAX_FRAMES + 1).unwrap_err().errno, Errno::EINVAL);
        table.grow(mmu, guest.domain.id(), MAX_FRAMES).unwrap();
        assert_eq!(table.frames().len(), MAX_FRAMES as usize);
        world.check_end(vec![guest]);
    }

    #[test]
    fn the_tables_frames_are_never_page_tables() {
        let world = World::new();
        let guest = world.guest();
        let (mmu, id) = (&world.services.mmu, guest.domain.id());
        let mut table = GrantTable::default();
        table.grow(mmu, id, 1).unwrap();
        let frame = table.frames()[0];
        assert!(mmu.pin(id, frame, Level::L1, &mut crate::paging::Budget::unlimited()).is_err());
        assert!(mmu.deallocate(id, frame).is_ok() && mmu.owner(frame) == Some(id), "not before its end");
    }

    #[test]
    fn what_the_builder_grants_stands_in_its_entry() {
        let world = World::new();
        let guest = world.guest();
        let mmu = &world.services.mmu;
        let mut table = GrantTable::default();
        assert!(table.permit(mmu, GrantRef::CONSOLE, DomId::HOST, Mfn(5)).is_err(), "no table yet");
        table.grow(mmu, guest.domain.id(), 1).unwrap();
        table.permit(mmu, GrantRef::XENSTORE, DomId::HOST, Mfn(5)).unwrap();
        assert_eq!(mmu.memory().load_u64(table.frames()[0], 8), Ok(5 << 32 | 1));
        assert!(table.permit(mmu, GrantRef(512), DomId::HOST, Mfn(5)).is_err());
        assert!(table.permit(mmu, GrantRef(0), DomId::HOST, Mfn(1 << 32)).is_err());
    }
}
