//! The guest's part of a vCPU's GDT: frames of validated descriptors, of which the context holds a copy.

use crate::error::Failure;
use crate::frame::{Reference, ReferenceKind};
use crate::paging::{Budget, Mmu, Progress};
use pv_abi::segment::DESCRIPTORS_PER_FRAME;
use pv_abi::{DomId, Mfn};

/// Frames that hold descriptors, each with a reference that keeps it so. They go back by [`Self::release`].
#[derive(Debug, Default)]
pub struct GuestGdt {
    frames: Vec<Reference>,
    entries: u32,
}

impl GuestGdt {
    /// Replaces the frames; all of them are checked first. Interrupted, it is to be called again with the same ones.
    ///
    /// # Errors
    /// The guest's fault, and nothing has changed.
    pub fn replace(
        &mut self,
        mmu: &Mmu,
        domain: DomId,
        frames: &[Mfn],
        entries: u32,
        budget: &mut Budget,
    ) -> Result<Progress, Failure> {
        // They may still be in use by what an earlier call left over.
        if mmu.drain(domain, budget)? == Progress::Preempted {
            return Ok(Progress::Preempted);
        }
        let mut held = Self { frames: Vec::with_capacity(frames.len()), entries };
        for &mfn in frames {
            match mmu.hold_descriptors(domain, mfn) {
                Ok(reference) => held.frames.push(reference),
                Err(failure) => {
                    held.release(mmu);
                    return Err(failure);
                }
            }
        }
        std::mem::swap(self, &mut held);
        held.release(mmu);
        Ok(Progress::Done)
    }

    /// The references that it stands for, for [`Mmu::audit`].
    pub fn held(&self) -> impl Iterator<Item = (Mfn, ReferenceKind)> + use<'_> {
        self.frames.iter().map(|frame| (frame.mfn(), frame.kind()))
    }

    /// Gives the frames back.
    pub fn release(&mut self, mmu: &Mmu) {
        self.entries = 0;
        self.frames.drain(..).for_each(|reference| mmu.release(reference));
    }

    /// A copy of the descriptors.
    pub fn descriptors(&self, mmu: &Mmu) -> Vec<u64> {
        (0..self.entries)
            .map_while(|entry| {
                let frame = self.frames.get((entry / DESCRIPTORS_PER_FRAME) as usize)?;
                let offset = ((entry % DESCRIPTORS_PER_FRAME) << 3) as usize;
                mmu.memory().load_u64(frame.mfn(), offset).ok()
            })
            .collect()
    }
}
