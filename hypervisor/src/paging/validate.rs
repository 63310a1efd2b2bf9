//! A frame becomes a table: every entry is checked, and takes its reference. Tables below are checked on the way,
//! at most three levels down. Where the budget ends, each table on the way keeps its progress, and the references
//! of its entries and its own, in the frame table; whoever wants the table next goes on from there.

use super::counters::count;
use super::entry::admit;
use super::space::Space;
use super::{Budget, Mmu, Progress};
use crate::error::Failure;
use crate::frame::{Effect, FrameType, Operation, Reference, ReferenceKind};
use pv_abi::Mfn;
use pv_abi::page_table::{Level, Pte, is_hypervisor_slot};

/// The reference that an entry needs.
pub(super) enum Taken {
    /// None: it is not present.
    Nothing,
    /// The entry holds this reference.
    Reference(Reference),
    /// The table below it is not checked to the end yet.
    Preempted,
}

impl Mmu {
    /// Takes the reference that an admitted entry of a table of `level` needs.
    pub(super) fn take_for_entry(
        &self,
        space: &mut Space,
        level: Level,
        entry: Pte,
        budget: &mut Budget,
    ) -> Result<Taken, Failure> {
        let Some(kind) = Reference::kind_of_entry(level, entry) else { return Ok(Taken::Nothing) };
        let mfn = entry.mfn();
        if let ReferenceKind::Typed(FrameType::Table(below)) = kind {
            let taken = self.take_table(space, mfn, below, budget)?;
            return Ok(taken.map_or(Taken::Preempted, Taken::Reference));
        }
        Ok(Taken::Reference(match kind {
            ReferenceKind::General => self.frames.get(space.domain, mfn)?,
            ReferenceKind::Typed(_) => self.frames.get_writable(space.domain, mfn)?,
        }))
    }

    /// Takes a reference to a table of the domain's, which is validated first if it is none yet. Nothing comes back
    /// where the budget ends before.
    pub(super) fn take_table(
        &self,
        space: &mut Space,
        table: Mfn,
        level: Level,
        budget: &mut Budget,
    ) -> Result<Option<Reference>, Failure> {
        let general = self.frames.get(space.domain, table)?;
        let kind = FrameType::Table(level);
        match self.frames.apply(table, Operation::AcquireType(kind)) {
            Ok(Effect::Validate) => {
                self.frames.set_progress(table, 0);
                general.into_entry(); // the work's own, with the type reference
            }
            Ok(Effect::Resume) => self.frames.put(general),
            Ok(_) => {
                general.into_entry();
                return Ok(Some(Reference::recall(table, ReferenceKind::Typed(kind))));
            }
            Err(refusal) => {
                self.frames.put(general);
                return Err(refusal.into());
            }
        }
        match self.validate(space, table, level, budget) {
            Ok(Progress::Done) => Ok(Some(Reference::recall(table, ReferenceKind::Typed(kind)))),
            Ok(Progress::Preempted) => Ok(None),
            Err(failure) => {
                self.abandon(space, table, level);
                Err(failure)
            }
        }
    }

    fn validate(
        &self,
        space: &mut Space,
        table: Mfn,
        level: Level,
        budget: &mut Budget,
    ) -> Result<Progress, Failure> {
        let start = self.frames.progress(table);
        let checked = self.validate_from(space, table, level, start, budget);
        count(&self.counters.entries_validated, self.frames.progress(table).saturating_sub(start) as u64);
        if checked? == Progress::Done {
            self.frames.apply(table, Operation::Validated)?;
            count(&self.counters.tables_validated, 1);
            return Ok(Progress::Done);
        }
        Ok(Progress::Preempted)
    }

    fn validate_from(
        &self,
        space: &mut Space,
        table: Mfn,
        level: Level,
        start: usize,
        budget: &mut Budget,
    ) -> Result<Progress, Failure> {
        for index in start..self.layout.entries {
            if budget.is_exhausted() {
                return Ok(Progress::Preempted);
            }
            if self.validate_entry(space, table, level, index, budget)? == Progress::Preempted {
                return Ok(Progress::Preempted);
            }
            self.frames.set_progress(table, index.saturating_add(1));
            budget.spend();
        }
        Ok(Progress::Done)
    }

    fn validate_entry(
        &self,
        space: &mut Space,
        table: Mfn,
        level: Level,
        index: usize,
        budget: &mut Budget,
    ) -> Result<Progress, Failure> {
        if level == Level::L4 && is_hypervisor_slot(index) {
            self.exchange(table, index, self.hypervisor_slot(space.domain, index), 0)?;
            return Ok(Progress::Done);
        }
        let found = self.entry(table, index)?;
        let admitted = admit(level, found)?;
        match self.take_for_entry(space, level, admitted, budget)? {
            Taken::Preempted => return Ok(Progress::Preempted),
            Taken::Reference(reference) => reference.into_entry(),
            Taken::Nothing => {}
        }
        if admitted != found {
            self.exchange(table, index, admitted, 0)?;
        }
        Ok(Progress::Done)
    }
}
