//! Frames as domains get them, name them and give them back.

use super::Mmu;
use crate::error::{Failure, Refusal};
use crate::frame::{FrameType, Operation, Reference, ReferenceKind};
use pv_abi::{DomId, Errno, Mfn, Pfn};

impl Mmu {
    /// Gives a domain a frame of zeros.
    ///
    /// # Errors
    /// ENOMEM, or the domain is dying.
    pub fn allocate(&self, owner: DomId) -> Result<Mfn, Refusal> {
        self.allocate_up_to(owner, u64::MAX)
    }

    /// The same, for a domain that may not have more than `most` ([`Self::frames_of`]).
    ///
    /// # Errors
    /// As [`Self::allocate`]; ENOMEM, too, where it has as many.
    pub fn allocate_up_to(&self, owner: DomId, most: u64) -> Result<Mfn, Refusal> {
        const ALL: Refusal = Refusal::new(Errno::ENOMEM, "the domain has all the pages that it may have");
        self.with_space(owner, |space| {
            space.check_alive()?;
            // All that it gets, it gets under this lock.
            if self.frames.owned_by(owner) >= most {
                return Err(ALL.into());
            }
            Ok(self.frames.allocate(owner)?)
        })
        .map_err(to_refusal)
    }

    /// Gives a domain so many frames of zeros.
    ///
    /// # Errors
    /// As [`Self::allocate`]; what was given stays the domain's.
    pub fn allocate_many(&self, owner: DomId, count: u64) -> Result<Vec<Mfn>, Refusal> {
        self.with_space(owner, |space| {
            space.check_alive()?;
            (0..count).map(|_| Ok(self.frames.allocate(owner)?)).collect()
        })
        .map_err(to_refusal)
    }

    /// Gives a domain a frame that the hypervisor, or a back-end, writes: it stays writable for the domain's life,
    /// so it can never become a table.
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub fn allocate_shared(&self, owner: DomId) -> Result<Mfn, Refusal> {
        self.with_space(owner, |space| {
            space.check_alive()?;
            let mfn = self.frames.allocate(owner)?;
            let writable = self.reference(owner, mfn, true)?; // under the lock, so it is no table yet
            self.frames.apply(mfn, Operation::MakePermanent)?;
            writable.into_entry();
            Ok(mfn)
        })
        .map_err(to_refusal)
    }

    /// The domain gives a frame back. It is free once nothing refers to it any more.
    ///
    /// # Errors
    /// It is not the domain's, or given back before.
    pub fn deallocate(&self, owner: DomId, mfn: Mfn) -> Result<(), Refusal> {
        self.with_space(owner, |space| {
            space.check_alive()?;
            Ok(self.frames.deallocate(owner, mfn)?)
        })
        .map_err(to_refusal)
    }

    /// Sets what the M2P says of a frame.
    pub fn set_pfn(&self, mfn: Mfn, pfn: Pfn) {
        self.frames.m2p().set(mfn, pfn);
    }

    /// What the M2P says of a frame; its owner may have written anything there.
    pub fn pfn(&self, mfn: Mfn) -> Pfn {
        self.frames.m2p().get(mfn)
    }

    /// Who owns a frame at this moment.
    pub fn owner(&self, mfn: Mfn) -> Option<DomId> {
        self.frames.owner(mfn)
    }

    /// Frames that nobody has.
    pub fn free_frames(&self) -> u64 {
        self.frames.free_frames()
    }

    /// Frames that a domain has, those included that it gave back and somebody still refers to. The number of a
    /// dead domain may be used again when it has none.
    pub fn frames_of(&self, domain: DomId) -> u64 {
        self.frames.owned_by(domain)
    }

    /// A reference to a frame of `domain`'s, for whoever accesses it by its mfn: read-only, or writable and so no
    /// table meanwhile. It goes back by [`Mmu::release`].
    ///
    /// # Errors
    /// The frame is not the domain's, or a table; or the domain is dying, and lends nothing any more.
    pub fn hold(&self, domain: DomId, mfn: Mfn, writable: bool) -> Result<Reference, Refusal> {
        self.with_space(domain, |space| {
            space.check_alive()?;
            Ok(self.reference(domain, mfn, writable)?)
        })
        .map_err(to_refusal)
    }

    fn reference(&self, domain: DomId, mfn: Mfn, writable: bool) -> Result<Reference, Refusal> {
        if writable { self.frames.get_writable(domain, mfn) } else { self.frames.get(domain, mfn) }
    }

    /// One more reference to a frame that an entry refers to, whoever owns it; under the lock that keeps the entry.
    pub(super) fn duplicate(&self, mfn: Mfn, writable: bool) -> Result<Reference, Refusal> {
        self.frames.apply(mfn, Operation::Get)?;
        let general = Reference::recall(mfn, ReferenceKind::General);
        if writable { self.frames.into_writable(general) } else { Ok(general) }
    }

    /// Gives back what [`Mmu::hold`] gave, when no translation and no access needs it any more.
    pub fn release(&self, reference: Reference) {
        debug_assert!(!matches!(reference.kind(), ReferenceKind::Typed(FrameType::Table(_))));
        let table = self.frames.give_back(reference);
        debug_assert!(table.is_none(), "a table is given back through its owner's space");
    }
}

fn to_refusal(failure: Failure) -> Refusal {
    match failure {
        Failure::Refused(refusal) => refusal,
        Failure::Crash(_) | Failure::Machine(_) | Failure::Host(_) => {
            Refusal::new(Errno::EIO, "the domain is lost")
        }
    }
}
