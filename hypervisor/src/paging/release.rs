//! A domain's end: everything that it holds is given back, in bounded steps.

use super::space::{Space, SpaceState};
use super::{Budget, Mmu, Progress};
use crate::error::Failure;
use crate::frame::{FrameType, Operation, Phase, Reference, ReferenceKind};
use pv_abi::{DomId, Mfn};

/// Frames looked at for one step of the budget.
const LOOKS_PER_STEP: u64 = 64;

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
                if !self.release_some(space)? {
                    space.state = SpaceState::Dead;
                    return Ok(Progress::Done);
                }
                budget.spend();
            }
        })
    }

    /// Looks at some more frames, up to the first that has something to give back. False behind the last.
    fn release_some(&self, space: &mut Space) -> Result<bool, Failure> {
        if space.state == SpaceState::Failed {
            return space.check_alive().map(|()| false);
        }
        for _ in 0..LOOKS_PER_STEP {
            let mfn = Mfn(space.released);
            if mfn.0 >= self.layout.frames {
                return Ok(false);
            }
            space.released = space.released.saturating_add(1);
            if self.frames.owner(mfn) == Some(space.domain) {
                self.release_frame(space, mfn)?;
                return Ok(true);
            }
        }
        Ok(true)
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
