//! The root tables of a vCPU. A root in use is a valid L4 table of the vCPU's domain and stays one.

use super::space::Space;
use super::{Budget, Mmu, Progress};
use crate::error::Failure;
use crate::frame::{FrameType, Reference, ReferenceKind};
use crate::machine::Root;
use pv_abi::page_table::Level;
use pv_abi::{DomId, Mfn};

const ROOT: ReferenceKind = ReferenceKind::Typed(FrameType::Table(Level::L4));

/// A vCPU's root tables, each with a reference that keeps it a root. They go back by [`Mmu::release_roots`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Roots {
    pub(super) kernel: Option<Root>,
    pub(super) user: Option<Root>,
}

impl Roots {
    /// The root of kernel mode; none before the vCPU is initialised.
    pub const fn kernel(&self) -> Option<Root> {
        self.kernel
    }

    /// The root of user mode; without one, going to user mode is the guest's crash.
    pub const fn user(&self) -> Option<Root> {
        self.user
    }

    /// The references that it stands for, for [`Mmu::audit`].
    pub fn held(&self) -> impl Iterator<Item = (Mfn, ReferenceKind)> + use<> {
        self.kernel.into_iter().chain(self.user).map(|root| (root.mfn(), ROOT))
    }
}

impl Mmu {
    /// Makes `root` the root of kernel mode. It is validated first if need be.
    ///
    /// The caller enters the vCPU with the new root, or not at all, from then on.
    ///
    /// # Errors
    /// The guest's fault, and nothing has changed; or the machine's, and the domain is lost.
    pub fn new_baseptr(
        &self,
        domain: DomId,
        roots: &mut Roots,
        root: Mfn,
        budget: &mut Budget,
    ) -> Result<Progress, Failure> {
        self.operate(domain, budget, |space, budget| {
            self.replace_root(space, &mut roots.kernel, Some(root), budget)
        })
    }

    /// Makes `root` the root of user mode; none where the guest says mfn 0.
    ///
    /// # Errors
    /// As [`Self::new_baseptr`].
    pub fn new_user_baseptr(
        &self,
        domain: DomId,
        roots: &mut Roots,
        root: Option<Mfn>,
        budget: &mut Budget,
    ) -> Result<Progress, Failure> {
        self.operate(domain, budget, |space, budget| self.replace_root(space, &mut roots.user, root, budget))
    }

    fn replace_root(
        &self,
        space: &mut Space,
        place: &mut Option<Root>,
        root: Option<Mfn>,
        budget: &mut Budget,
    ) -> Result<Progress, Failure> {
        if place.map(Root::mfn) == root {
            return Ok(Progress::Done);
        }
        if let Some(root) = root {
            match self.take_table(space, root, Level::L4, budget)? {
                Some(reference) => reference.into_entry(),
                None => return Ok(Progress::Preempted),
            }
        }
        // The reference that was taken, and that `place` stands for from now on, keeps it valid.
        if let Some(old) = std::mem::replace(place, root.map(Root::of_valid_l4)) {
            space.defer(Reference::recall(old.mfn(), ROOT));
        }
        // What the old root's tree costs beyond the budget is left over, and the switch is done.
        self.drain_space(space, budget).map(|_| Progress::Done)
    }

    /// Gives a vCPU's roots up; it is on no pcpu any more. The work is left to [`Mmu::drain`], or to
    /// [`Mmu::release_domain`].
    pub fn release_roots(&self, domain: DomId, roots: &mut Roots) {
        let space = self.spaces.of(domain);
        let mut space = space.lock();
        for root in [roots.kernel.take(), roots.user.take()].into_iter().flatten() {
            space.defer(Reference::recall(root.mfn(), ROOT));
        }
    }
}
