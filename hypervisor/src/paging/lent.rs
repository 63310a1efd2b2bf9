//! Entries that name frames which another domain lends: the only ones of a frame that is not the table's owner's.
//!
//! Such an entry is written here only, and consumes the reference that the lender gave. Like every entry it can be
//! overwritten or go with its table, and then gives the reference back; it cannot be copied, moved or validated again.
//! So it stays where it was written, or is gone: whoever keeps its [`EntryPlace`] can take it away for certain, also
//! where the domain has meanwhile changed the tables above (`grant::tests::what_is_mapped_cannot_be_hidden`).

use super::space::Space;
use super::teardown::recall;
use super::update::{KEEP_NOTHING, Place};
use super::{Batch, Mmu, Progress};
use crate::error::{Failure, Refusal};
use crate::frame::{Reference, ReferenceKind};
use crate::machine::Change;
use pv_abi::page_table::{ENTRIES, Level, Pte, PteFlags};
use pv_abi::{Errno, Mfn};

/// Which entry a domain means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryTarget {
    /// The one that maps an address in the tree of a root.
    Linear {
        /// A root table that is in use.
        root: Mfn,
        /// The linear address that the entry maps.
        address: u64,
    },
    /// The one at a machine address.
    Machine(u64),
}

impl EntryTarget {
    /// The address, of either kind.
    pub const fn address(self) -> u64 {
        match self {
            Self::Linear { address, .. } | Self::Machine(address) => address,
        }
    }
}

/// An entry of an L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryPlace {
    /// The table that the entry is in.
    pub table: Mfn,
    /// The entry's index in the table, below 512.
    pub index: usize,
}

impl From<EntryPlace> for Place {
    fn from(EntryPlace { table, index }: EntryPlace) -> Self {
        Self { table, level: Level::L1, index }
    }
}

const NO_TABLE: Refusal = Refusal::new(Errno::EINVAL, "no page table has that entry");

impl Mmu {
    /// Writes an entry that maps the frame of `lent`, writable if the reference is, into a table of the batch's domain.
    /// The place comes back, or nothing where the budget ends before. Whatever happens, the reference is used up.
    ///
    /// # Errors
    /// The guest's fault, and nothing has changed; or the machine's, and the domain is lost.
    pub fn map_lent(
        &self,
        target: EntryTarget,
        lent: Reference,
        available: PteFlags,
        batch: &mut Batch,
    ) -> Result<Option<EntryPlace>, Failure> {
        let writable = lent.kind() != ReferenceKind::General;
        let mut flags = available & (PteFlags::AVAIL0 | PteFlags::AVAIL1 | PteFlags::AVAIL2);
        flags |= PteFlags::PRESENT | PteFlags::USER | PteFlags::ACCESSED | PteFlags::NO_EXECUTE;
        flags.set(PteFlags::WRITABLE | PteFlags::DIRTY, writable);
        let new = Pte::new(lent.mfn(), flags);
        let (mut lent, mut made) = (Some(lent), None);
        let outcome = self.update(batch, |space, batch| {
            let place = self.l1_entry(space, target)?;
            self.put_entry(place, new, batch)?;
            lent.take().into_iter().for_each(Reference::into_entry);
            made = Some(place);
            Ok(Progress::Done)
        });
        lent.into_iter().for_each(|unused| self.release(unused));
        outcome.map(|_| made)
    }

    /// Takes away the entry at `place` if it still maps `frame`. When the batch is finished, nothing maps the frame
    /// there any more, and no pcpu reaches it by what was there.
    ///
    /// # Errors
    /// The machine's, and the domain is lost.
    pub fn unmap_lent(&self, place: EntryPlace, frame: Mfn, batch: &mut Batch) -> Result<Progress, Failure> {
        self.update(batch, |space, batch| {
            match self.maps(space, place, frame)? {
                true => self.put_entry(place, Pte::default(), batch)?,
                // Whoever has replaced the entry may not have settled that yet.
                false => batch.record(Change {
                    table: place.table,
                    index: place.index as u16,
                    level: Level::L1,
                    old: Pte::new(frame, PteFlags::PRESENT),
                }),
            }
            Ok(Progress::Done)
        })
    }

    /// Moves the entry of `from` to `place`, which must map `frame` still.
    ///
    /// # Errors
    /// As [`Self::map_lent`]; also where the entry of `from` is one of these itself.
    pub fn replace_lent(
        &self,
        place: EntryPlace,
        frame: Mfn,
        from: EntryTarget,
        batch: &mut Batch,
    ) -> Result<Progress, Failure> {
        self.update(batch, |space, batch| {
            let from = self.l1_entry(space, from)?;
            if from == place || !self.maps(space, place, frame)? {
                return Err(Refusal::new(Errno::EINVAL, "the mapping is not there any more").into());
            }
            let moved = self.entry(from.table, from.index)?;
            if moved.is_present() && self.frames.owner(moved.mfn()) != Some(space.domain) {
                return Err(Refusal::new(Errno::EINVAL, "an entry of a granted page does not move").into());
            }
            self.hold_table(batch, place.table, Level::L1)?;
            // Its reference moves along with it.
            self.replace(from.into(), moved, Pte::default(), KEEP_NOTHING, batch)?;
            self.put_entry(place, moved, batch)?;
            Ok(Progress::Done)
        })
    }

    /// Replaces an entry whose new reference is taken already; what the old one held goes to the batch.
    fn put_entry(&self, place: EntryPlace, new: Pte, batch: &mut Batch) -> Result<(), Failure> {
        let old = self.entry(place.table, place.index)?;
        self.replace(place.into(), old, new, KEEP_NOTHING, batch)?;
        recall(Level::L1, place.index, old).into_iter().for_each(|held| batch.hold(held));
        Ok(())
    }

    /// Whether the entry at `place` is one of a table of the domain's, and maps `frame`.
    fn maps(&self, space: &Space, place: EntryPlace, frame: Mfn) -> Result<bool, Failure> {
        if !self.is_own_l1(space, place.table) {
            return Ok(false);
        }
        let entry = self.entry(place.table, place.index)?;
        Ok(entry.is_present() && entry.mfn() == frame)
    }

    fn l1_entry(&self, space: &Space, target: EntryTarget) -> Result<EntryPlace, Refusal> {
        match target {
            EntryTarget::Linear { root, address } => {
                let table = self.table_for(space, root, address, Level::L1).ok_or(NO_TABLE)?;
                Ok(EntryPlace { table, index: Level::L1.index(address) })
            }
            EntryTarget::Machine(address) => {
                let table = Mfn::containing(address);
                match address.is_multiple_of(size_of::<Pte>() as u64) && self.is_own_l1(space, table) {
                    true => Ok(EntryPlace { table, index: (address >> 3) as usize % ENTRIES }),
                    false => Err(NO_TABLE),
                }
            }
        }
    }

    pub(super) fn is_own_l1(&self, space: &Space, table: Mfn) -> bool {
        self.frames.owner(table) == Some(space.domain) && self.frames.word(table).is_valid_table(Level::L1)
    }
}
