//! Updates of single entries: `mmu_update` and `update_va_mapping`.
//!
//! An update decodes, checks and takes what the new entry needs; only then does it replace the old one. After a
//! refusal nothing has changed.

use super::counters::count;
use super::entry::{admit, is_bookkeeping, needs_settling};
use super::space::Space;
use super::teardown::recall;
use super::validate::Taken;
use super::{Batch, Mmu, Progress};
use crate::error::{Failure, Refusal};
use crate::frame::{FrameType, Phase, Reference};
use crate::machine::Change;
use pv_abi::mmu::{MmuUpdate, MmuUpdateKind};
use pv_abi::page_table::{Level, Pte, PteFlags, is_hypervisor_slot};
use pv_abi::{Errno, Mfn, PAGE_SIZE, Pfn};

/// An entry of a valid table.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) table: Mfn,
    pub(super) level: Level,
    pub(super) index: usize,
}

pub(super) const KEEP_NOTHING: u64 = 0;
const KEEP_ACCESSED_DIRTY: u64 = PteFlags::ACCESSED.union(PteFlags::DIRTY).bits();

impl Mmu {
    /// One update of `mmu_update`, for the batch's domain and its own frames.
    ///
    /// # Errors
    /// The guest's fault, and nothing has changed; or the machine's, and the domain is lost.
    pub fn mmu_update(&self, request: MmuUpdate, batch: &mut Batch) -> Result<Progress, Failure> {
        self.mmu_updates(&[request], batch).1
    }

    /// Updates one after the other, under one lock: how many are done, and how it ended. The budget may end
    /// between two of them.
    pub fn mmu_updates(
        &self,
        requests: &[MmuUpdate],
        batch: &mut Batch,
    ) -> (usize, Result<Progress, Failure>) {
        let mut done = 0_usize;
        let outcome = self.update(batch, |space, batch| {
            for &request in requests {
                let made =
                    self.attempt(space, batch, |space, batch| self.update_as_asked(space, request, batch));
                if made? == Progress::Preempted {
                    return Ok(Progress::Preempted);
                }
                done = done.saturating_add(1);
                if batch.budget().is_exhausted() && done < requests.len() {
                    return Ok(Progress::Preempted);
                }
            }
            Ok(Progress::Done)
        });
        (done, outcome)
    }

    fn update_as_asked(
        &self,
        space: &mut Space,
        request: MmuUpdate,
        batch: &mut Batch,
    ) -> Result<Progress, Failure> {
        match request.kind() {
            MmuUpdateKind::MACHPHYS_UPDATE => self.update_m2p(space, request),
            MmuUpdateKind::PT_UPDATE_PRESERVE_AD => {
                self.update_at(space, request, KEEP_ACCESSED_DIRTY, batch)
            }
            _ => self.update_at(space, request, KEEP_NOTHING, batch),
        }
    }

    /// Sets the L1 entry which maps `address` in the tree of `root`, a root table in use.
    ///
    /// # Errors
    /// As [`Self::mmu_update`]; also where that tree has no L1 table for the address.
    pub fn update_va_mapping(
        &self,
        root: Mfn,
        address: u64,
        value: Pte,
        batch: &mut Batch,
    ) -> Result<Progress, Failure> {
        let set = |space: &mut Space, batch: &mut Batch| {
            let table = self
                .table_for(space, root, address, Level::L1)
                .ok_or(Refusal::new(Errno::EINVAL, "no page table maps the address"))?;
            let place = Place { table, level: Level::L1, index: Level::L1.index(address) };
            self.write_entry(space, place, value, KEEP_NOTHING, batch)
        };
        self.update(batch, |space, batch| self.attempt(space, batch, set))
    }

    /// Operations of a batch, under the lock of the domain's page tables.
    pub(super) fn update(
        &self,
        batch: &mut Batch,
        action: impl FnOnce(&mut Space, &mut Batch) -> Result<Progress, Failure>,
    ) -> Result<Progress, Failure> {
        let outcome = self.operate(batch.domain(), batch, action);
        count(&self.counters.entries_updated, std::mem::take(&mut batch.updated));
        outcome
    }

    /// One of them. What it is refused because of the batch's own unsettled changes succeeds once they are settled:
    /// a frame may be unmapped and become a table within one batch.
    pub(super) fn attempt(
        &self,
        space: &mut Space,
        batch: &mut Batch,
        action: impl Fn(&mut Space, &mut Batch) -> Result<Progress, Failure>,
    ) -> Result<Progress, Failure> {
        let outcome = action(space, batch);
        if batch.is_empty() || !matches!(outcome, Err(Failure::Refused(_))) {
            return outcome;
        }
        self.settle(space, batch)?;
        match self.drain_space(space, batch.budget())? {
            Progress::Done => action(space, batch),
            Progress::Preempted => Ok(Progress::Preempted),
        }
    }

    fn update_m2p(&self, space: &mut Space, request: MmuUpdate) -> Result<Progress, Failure> {
        let frame = self.frames.get(space.domain, Mfn::containing(request.address()))?;
        self.frames.m2p().set(frame.mfn(), Pfn(request.val));
        self.frames.put(frame);
        Ok(Progress::Done)
    }

    /// An update of whatever the machine address is in: a table's entry, or a word of an ordinary page.
    fn update_at(
        &self,
        space: &mut Space,
        request: MmuUpdate,
        keep: u64,
        batch: &mut Batch,
    ) -> Result<Progress, Failure> {
        let (mfn, offset) =
            (Mfn::containing(request.address()), request.address() as usize & (PAGE_SIZE - 1));
        if !offset.is_multiple_of(8) {
            return Err(Refusal::new(Errno::EINVAL, "the address of an entry is not a multiple of 8").into());
        }
        if let Some(level) = batch.level_of(mfn) {
            let place = Place { table: mfn, level, index: offset / 8 };
            return self.write_entry(space, place, Pte(request.val), keep, batch);
        }
        let frame = self.frames.get(space.domain, mfn)?;
        let word = self.frames.word(mfn);
        let outcome = match (word.kind, word.phase) {
            (FrameType::Table(level), Phase::Valid) => {
                let place = Place { table: mfn, level, index: offset / 8 };
                self.write_entry(space, place, Pte(request.val), keep, batch)
            }
            (FrameType::Table(_), _) => {
                Err(Refusal::new(Errno::EBUSY, "the table is being validated, or torn down").into())
            }
            (FrameType::Descriptors, _) => {
                Err(Refusal::new(Errno::EINVAL, "descriptors are changed by update_descriptor").into())
            }
            _ => self.write_word(space, mfn, offset, request.val),
        };
        self.frames.put(frame);
        outcome
    }

    /// A table that is none yet is an ordinary page, and its owner may write it by this call, too.
    fn write_word(&self, space: &Space, mfn: Mfn, offset: usize, value: u64) -> Result<Progress, Failure> {
        let writable = self.frames.get_writable(space.domain, mfn)?;
        let stored = self.memory.store_u64(mfn, offset, value);
        self.frames.give_back(writable);
        stored.map_err(|_| Refusal::new(Errno::EINVAL, "the address is not in the frame"))?;
        Ok(Progress::Done)
    }

    fn write_entry(
        &self,
        space: &mut Space,
        place: Place,
        value: Pte,
        keep: u64,
        batch: &mut Batch,
    ) -> Result<Progress, Failure> {
        let Place { table, level, index } = place;
        if level == Level::L4 && is_hypervisor_slot(index) {
            return Err(Refusal::new(Errno::EINVAL, "the root table's slot is the hypervisor's").into());
        }
        let new = admit(level, value)?;
        let old = self.entry(table, index)?;
        if is_bookkeeping(old, new) {
            return self.replace(place, old, new, keep, batch).map(|()| Progress::Done);
        }
        let taken = match self.take_for_entry(space, level, new, batch.budget())? {
            Taken::Preempted => return Ok(Progress::Preempted),
            Taken::Reference(reference) => Some(reference),
            Taken::Nothing => None,
        };
        if let Err(failure) = self.replace(place, old, new, keep, batch) {
            taken.into_iter().for_each(|unused| space.defer(unused));
            return Err(failure);
        }
        taken.into_iter().for_each(Reference::into_entry);
        recall(level, index, old).into_iter().for_each(|held| batch.hold(held));
        Ok(Progress::Done)
    }

    /// Replaces the entry, and records the change. Of what was `seen` there, only the accessed and dirty bits may
    /// have changed meanwhile.
    pub(super) fn replace(
        &self,
        place: Place,
        seen: Pte,
        new: Pte,
        keep: u64,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let Place { table, level, index } = place;
        if seen.is_present() {
            self.hold_table(batch, table, level)?;
        }
        let old = self.exchange(table, index, new, keep)?;
        if needs_settling(old, Pte(new.0 & !keep | old.0 & keep)) {
            batch.record(Change { table, index: index as u16, level, old });
        }
        batch.updated = batch.updated.saturating_add(1);
        Ok(())
    }
}
