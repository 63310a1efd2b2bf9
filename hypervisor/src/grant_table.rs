//! A domain's grant table: frames in which it says what it lends to whom.
//!
//! Invariants, with the tests that guard them (below):
//! - its frames are given to the domain for its life, and never become page tables: the domain may map and write
//!   them (`the_tables_frames_are_never_page_tables`);
//! - the table only grows, to [`MAX_FRAMES`] at most (`a_table_grows_to_its_limit`).

use crate::error::Refusal;
use crate::paging::Mmu;
use pv_abi::grant_table::{ENTRIES_PER_FRAME, GrantEntry};
use pv_abi::{DomId, Errno, GrantRef, Mfn};
use zerocopy::IntoBytes;

/// Frames that a table can have.
pub const MAX_FRAMES: u32 = 32;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct GrantTable {
    frames: Vec<Mfn>,
}

impl GrantTable {
    /// Makes the table of `domain` at least `frames` frames long.
    ///
    /// # Errors
    /// −EINVAL beyond [`MAX_FRAMES`]; −ENOMEM where the machine has no frame left.
    pub fn grow(&mut self, mmu: &Mmu, domain: DomId, frames: u32) -> Result<(), Refusal> {
        if frames > MAX_FRAMES {
            return Err(Refusal::new(Errno::EINVAL, "a grant table has 32 frames at most"));
        }
        while self.frames.len() < frames as usize {
            self.frames.push(mmu.allocate_shared(domain)?);
        }
        Ok(())
    }

    /// Its frames.
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
        let table = self.frames.get((reference.0 / ENTRIES_PER_FRAME) as usize).ok_or(BAD)?;
        let offset = (reference.0 % ENTRIES_PER_FRAME) as usize * size_of::<GrantEntry>();
        mmu.memory().write(*table, offset, entry.as_bytes()).map_err(|_| BAD)
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
