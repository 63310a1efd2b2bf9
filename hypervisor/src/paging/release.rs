//! A domain's end: everything that it holds is given back, in bounded steps.

use super::space::{Space, SpaceState};
use super::{Budget, Mmu, Progress};
use crate::error::Failure;
use crate::frame::{FrameType, Operation, Phase, Reference, ReferenceKind};
use pv_abi::{DomId, Mfn};

impl Mmu {
    /// Takes a domain apart: pins, half-validated tables, permanent references, frames. Call it until it is done.
    /// None of the domain's vCPUs runs any more, and their roots and descriptor frames were given back
    /// ([`Mmu::release_roots`], [`Mmu::release`]).
    ///
    /// Frames that others still refer to remain the domain's until they do not ([`Mmu::frames_of`]).
    ///
    /// # Errors
    /// The machine's: then the domain's frames stay as they are for the machine's life, and so does its number.
    pub fn release_domain(&self, domain: DomId, budget: &mut Budget) -> Result<Progress, Failure> {
        self.with_space(domain, |space| {
            match space.state {
                SpaceState::Alive => space.state = SpaceState::Dying,
                SpaceState::Dying | SpaceState::Failed => {}
                SpaceState::Dead => return self.drain_space(space, budget), // what came back late
            }
            loop {
                if self.drain_space(space, budget)? == Progress::Preempted || budget.is_exhausted() {
                    return Ok(Progress::Preempted);
                }
                if space.state == SpaceState::Failed {
                    space.check_alive()?;
                }
                let Some(mfn) = self.frames.take_listed(domain) else {
                    space.state = SpaceState::Dead;
                    return Ok(Progress::Done);
                };
                self.release_frame(space, mfn)?;
                budget.spend();
            }
        })
    }

    /// Gives back what the frame table itself holds of a frame.
    fn release_frame(&self, space: &mut Space, mfn: Mfn) -> Result<(), Failure> {
        let word = self.frames.word(mfn);
        if let FrameType::Table(level) = word.kind {
            if word.pinned {
                self.frames.apply(mfn, Operation::Unpin)?;
                space.defer(Reference::recall(mfn, ReferenceKind::Typed(word.kind)));
            }
            if word.phase == Phase::Validating {
                self.abandon(space, mfn, level);
            }
        }
        if word.permanent {
            self.frames.apply(mfn, Operation::DropPermanent)?;
            space.defer(Reference::recall(mfn, ReferenceKind::Typed(FrameType::Writable)));
        }
        if word.allocated {
            self.frames.deallocate(space.domain, mfn)?;
        }
        Ok(())
    }
}
