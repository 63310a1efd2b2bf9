//! Pinning: a guest asks that a tree be validated and stay so, whoever refers to it.

use super::{Budget, Mmu, Progress};
use crate::error::{Failure, Refusal};
use crate::frame::{FrameType, Operation, Reference, ReferenceKind};
use pv_abi::page_table::Level;
use pv_abi::{DomId, Errno, Mfn};

impl Mmu {
    /// Validates a table and all below, and keeps it validated.
    ///
    /// # Errors
    /// The guest's fault: the frame is not its own, is in use as something else, is pinned already, or an entry
    /// is bad. What was validated by then is given up.
    pub fn pin(
        &self,
        domain: DomId,
        mfn: Mfn,
        level: Level,
        budget: &mut Budget,
    ) -> Result<Progress, Failure> {
        self.operate(domain, budget, |space, budget| {
            let frame = self.frames.get(domain, mfn)?;
            let pinned = self.frames.word(mfn).pinned;
            self.frames.put(frame);
            if pinned {
                return Err(Refusal::new(Errno::EINVAL, "the table is pinned already").into());
            }
            let Some(reference) = self.take_table(space, mfn, level, budget)? else {
                return Ok(Progress::Preempted);
            };
            match self.frames.apply(mfn, Operation::Pin) {
                Ok(_) => reference.into_entry(),
                Err(refusal) => {
                    space.defer(reference);
                    return Err(refusal.into());
                }
            }
            Ok(Progress::Done)
        })
    }

    /// Gives a pin up. Tearing the tree down, if nothing else keeps it, goes as far as the budget allows; the rest
    /// is left to [`Mmu::drain`] and to the domain's next operation.
    ///
    /// # Errors
    /// The guest's fault: the frame is not its own, or not pinned.
    pub fn unpin(&self, domain: DomId, mfn: Mfn, budget: &mut Budget) -> Result<Progress, Failure> {
        self.operate(domain, budget, |space, budget| {
            let frame = self.frames.get(domain, mfn)?;
            let level = self.frames.word(mfn).kind.level();
            let unpinned = self.frames.apply(mfn, Operation::Unpin);
            self.frames.put(frame);
            unpinned?;
            if let Some(level) = level {
                space.defer(Reference::recall(mfn, ReferenceKind::Typed(FrameType::Table(level))));
            }
            // What does not fit the budget is left over, and the unpinning is done.
            self.drain_space(space, budget).map(|_| Progress::Done)
        })
    }
}
