//! Giving references back, and taking apart the tables whose last one that was. A worklist in the domain's
//! [`Space`]: no recursion, and it stops wherever the budget ends.

use super::counters::count;
use super::space::{Deferred, Space, SpaceState};
use super::{Budget, Mmu, Progress};
use crate::error::Failure;
use crate::frame::{Operation, Reference, ReferenceKind};
use crate::machine::{MachineError, NoSuchFrame};
use pv_abi::page_table::{FIRST_HYPERVISOR_SLOT, Level, Pte, is_hypervisor_slot};
use pv_abi::{DomId, Mfn};

impl Mmu {
    /// Goes on with what earlier calls of this domain left over. Every operation that takes a budget does so by
    /// itself, first; [`Mmu::hold`] and [`Mmu::hold_descriptors`] do not, and may find a frame still in use by what is
    /// left over.
    ///
    /// # Errors
    /// The machine's; the domain is lost then.
    pub fn drain(&self, domain: DomId, budget: &mut Budget) -> Result<Progress, Failure> {
        self.with_space(domain, |space| self.drain_space(space, budget))
    }

    pub(super) fn drain_space(&self, space: &mut Space, budget: &mut Budget) -> Result<Progress, Failure> {
        while !space.deferred.is_empty() {
            if space.state == SpaceState::Failed {
                return Err(Failure::Host("the machine failed to settle its page tables".into()));
            }
            if budget.is_exhausted() {
                return Ok(Progress::Preempted);
            }
            match space.deferred.pop() {
                Some(Deferred::GiveBack(reference)) => {
                    budget.spend();
                    self.give_back(space, reference);
                }
                Some(Deferred::TearDown { table, level, retired }) => {
                    self.tear_down(space, table, level, retired, budget)?;
                }
                None => break,
            }
        }
        Ok(Progress::Done)
    }

    fn give_back(&self, space: &mut Space, reference: Reference) {
        let ReferenceKind::Typed(kind) = reference.kind() else { return self.frames.put(reference) };
        if let (Some(table), Some(level)) = (self.frames.give_back(reference), kind.level()) {
            self.frames.set_progress(table, self.layout.entries);
            space.deferred.push(Deferred::TearDown { table, level, retired: false });
        }
    }

    /// Gives up a table that is being validated, at the entry where it stands.
    pub(super) fn abandon(&self, space: &mut Space, table: Mfn, level: Level) {
        let abandoned = self.frames.apply(table, Operation::Abandon);
        debug_assert!(abandoned.is_ok(), "{table} was not being validated");
        // No entry ever named it, so no pcpu walked it.
        space.deferred.push(Deferred::TearDown { table, level, retired: true });
    }

    /// Gives back what the entries hold, last entry first, until done, the budget is spent, or another table has
    /// to be torn down before.
    fn tear_down(
        &self,
        space: &mut Space,
        table: Mfn,
        level: Level,
        retired: bool,
        budget: &mut Budget,
    ) -> Result<(), Failure> {
        if !retired {
            if let Err(error) = self.translations.retire(table, level) {
                space.deferred.push(Deferred::TearDown { table, level, retired });
                return Err(error.into());
            }
            count(&self.counters.tables_retired, 1);
        }
        // On top of the list stays what is torn down first; this table is below its own lower tables.
        space.deferred.push(Deferred::TearDown { table, level, retired: true });
        let with_own = space.deferred.len();
        for index in (0..self.frames.progress(table)).rev() {
            if budget.is_exhausted() {
                return Ok(());
            }
            budget.spend();
            let entry = self.entry(table, index)?;
            self.frames.set_progress(table, index);
            if let Some(reference) = recall(level, index, entry) {
                self.give_back(space, reference);
            }
            if space.deferred.len() != with_own {
                return Ok(());
            }
        }
        space.deferred.truncate(with_own.saturating_sub(1));
        self.end_table(table, level)
    }

    /// The frame is no table any more.
    fn end_table(&self, table: Mfn, level: Level) -> Result<(), Failure> {
        if level == Level::L4 {
            for (slot, _) in (FIRST_HYPERVISOR_SLOT..).zip(&self.layout.slots) {
                self.exchange(table, slot, Pte::default(), 0)?;
            }
        }
        self.frames.apply(table, Operation::Devalidated)?;
        self.frames.put(Reference::recall(table, ReferenceKind::General));
        Ok(())
    }

    /// Reads an entry of a table that the domain's lock keeps in place.
    pub(super) fn entry(&self, table: Mfn, index: usize) -> Result<Pte, Failure> {
        self.memory.entry(table, index).map_err(lost_table)
    }

    /// Replaces an entry of such a table.
    pub(super) fn exchange(&self, table: Mfn, index: usize, new: Pte, keep: u64) -> Result<Pte, Failure> {
        self.memory.exchange_entry(table, index, new, keep).map_err(lost_table)
    }

    /// Replaces an entry of such a table if it is `old`. True where it was.
    pub(super) fn compare_exchange(
        &self,
        table: Mfn,
        index: usize,
        old: Pte,
        new: Pte,
    ) -> Result<bool, Failure> {
        self.memory.compare_exchange_entry(table, index, old, new).map_err(lost_table)
    }
}

/// The reference that a table's entry holds, if it does.
pub(super) fn recall(level: Level, index: usize, entry: Pte) -> Option<Reference> {
    if level == Level::L4 && is_hypervisor_slot(index) {
        return None;
    }
    Some(Reference::recall(entry.mfn(), Reference::kind_of_entry(level, entry)?))
}

/// A table that is in the frame table and not in memory: the machine is not what it was.
fn lost_table(missing: NoSuchFrame) -> Failure {
    Failure::Machine(MachineError::new("a page table cannot be read", std::io::Error::other(missing)))
}
