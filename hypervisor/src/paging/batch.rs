//! A transaction of updates: entries are replaced at once, and what the old ones held is given back when the
//! machine has settled the changes. The order is the whole point; see invariant 1 of [`crate::paging`].

use super::counters::count;
use super::space::{Space, SpaceState};
use super::{Budget, Mmu};
use crate::error::Failure;
use crate::frame::{FrameType, Operation, Reference, ReferenceKind};
use crate::machine::Change;
use pv_abi::page_table::Level;
use pv_abi::{DomId, Mfn};
use std::mem;

/// Updates of one domain's page tables that are not settled yet. It ends with [`Mmu::finish`], also after a
/// refusal.
#[derive(Debug)]
#[must_use = "a batch ends with Mmu::finish"]
pub struct Batch {
    domain: DomId,
    budget: Budget,
    changes: Vec<Change>,
    /// What the old entries held, and a reference to every table with a change, so that the table is one until
    /// the change is settled.
    held: Vec<Reference>,
    /// The table among them that was taken last: batches mostly stay within one.
    table: Option<(Mfn, Level)>,
    /// Entries updated, and not yet counted.
    pub(super) updated: u64,
}

impl Batch {
    /// An empty one, whose updates may take `budget` together.
    pub const fn new(domain: DomId, budget: Budget) -> Self {
        Self { domain, budget, changes: Vec::new(), held: Vec::new(), table: None, updated: 0 }
    }

    /// The domain whose page tables are updated.
    pub const fn domain(&self) -> DomId {
        self.domain
    }

    /// What may still be done; operations without a batch of their own may draw on it.
    pub const fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// Whether there is something to settle.
    pub(super) const fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.held.is_empty()
    }

    pub(super) fn hold(&mut self, reference: Reference) {
        self.held.push(reference);
    }

    /// The level of a table which the batch is known to hold, so that it is one of that level.
    pub(super) fn level_of(&self, table: Mfn) -> Option<Level> {
        self.table.filter(|(held, _)| *held == table).map(|(_, level)| level)
    }

    /// Gives nothing back, ever: the frames stay as they are for the machine's life.
    fn forget(&mut self) {
        self.table = None;
        self.changes.clear();
        mem::take(&mut self.held).into_iter().for_each(Reference::into_entry);
    }

    /// Records a change. Its table is held ([`Mmu::hold_table`]), but for a change of an L1 entry that somebody else has
    /// made: settling one reads no table.
    pub(super) fn record(&mut self, change: Change) {
        self.changes.push(change);
    }
}

impl AsMut<Budget> for Batch {
    fn as_mut(&mut self) -> &mut Budget {
        &mut self.budget
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        debug_assert!(self.is_empty() || std::thread::panicking(), "a batch was not finished: {self:?}");
    }
}

impl Mmu {
    /// Settles the batch and gives back what its old entries held. What that costs beyond the batch's budget is
    /// left to [`Mmu::drain`] and to the domain's next operation; what other domains lent is not. What is left of the
    /// budget then comes back: whoever gave it has to know.
    ///
    /// # Errors
    /// The machine's; the domain is lost then, and nothing is given back.
    pub fn finish(&self, mut batch: Batch) -> Result<Budget, Failure> {
        if batch.is_empty() {
            return Ok(batch.budget);
        }
        self.with_space(batch.domain, |space| {
            if space.state == SpaceState::Failed {
                batch.forget();
                return space.check_alive().map(|()| batch.budget);
            }
            self.settle(space, &mut batch)?;
            let mut budget = batch.budget;
            self.drain_space(space, &mut budget).map(|_| budget)
        })
    }

    /// Settles what the batch has so far.
    pub(super) fn settle(&self, space: &mut Space, batch: &mut Batch) -> Result<(), Failure> {
        let changes = mem::take(&mut batch.changes);
        let held = mem::take(&mut batch.held);
        batch.table = None;
        if !changes.is_empty() {
            // On failure the references are forgotten: their frames are nobody's for the machine's life.
            self.translations.settle(&changes)?;
            count(&self.counters.changes_settled, changes.len() as u64);
        }
        for reference in held {
            // What another domain lends goes back at once: its lender may be told so next, and nobody but this domain
            // would go on with what is left over.
            match self.frames.owner(reference.mfn()) == Some(space.domain) {
                true => space.defer(reference),
                false => self.release(reference),
            }
        }
        Ok(())
    }

    /// Keeps a table one until the batch is settled: a change in it must not outlive it.
    pub(super) fn hold_table(&self, batch: &mut Batch, table: Mfn, level: Level) -> Result<(), Failure> {
        let kind = FrameType::Table(level);
        if batch.level_of(table) == Some(level) {
            return Ok(());
        }
        let general = self.frames.get(batch.domain, table)?;
        if let Err(refusal) = self.frames.apply(table, Operation::AcquireType(kind)) {
            self.frames.put(general);
            return Err(refusal.into());
        }
        general.into_entry();
        batch.hold(Reference::recall(table, ReferenceKind::Typed(kind)));
        batch.table = Some((table, level));
        Ok(())
    }
}
