//! A grant that the host domain uses: no page table is involved, so holding it is having it.

use super::Access;
use crate::domain::Domain;
use crate::frame::Reference;
use crate::paging::Mmu;
use pv_abi::grant_table::GrantStatus;
use pv_abi::{DomId, GrantRef, Mfn};
use std::sync::Arc;

/// A page that a domain lends to the host domain; dropping it gives it back.
#[derive(Debug)]
pub struct HostGrant {
    mmu: Arc<Mmu>,
    granter: Arc<Domain>,
    reference: GrantRef,
    access: Access,
    mfn: Mfn,
    held: Option<Reference>,
}

impl HostGrant {
    /// Takes what `granter` lends by its entry `reference`.
    ///
    /// # Errors
    /// Why the entry does not allow it.
    pub fn new(
        mmu: Arc<Mmu>,
        granter: Arc<Domain>,
        reference: GrantRef,
        access: Access,
    ) -> Result<Self, GrantStatus> {
        let held = granter.grants().lock().pin(&mmu, granter.id(), reference, DomId::HOST, access)?;
        Ok(Self { mmu, granter, reference, access, mfn: held.mfn(), held: Some(held) })
    }

    /// The machine that it is in.
    pub fn mmu(&self) -> &Mmu {
        &self.mmu
    }

    /// The frame that is lent.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Whether the page is lent for writing.
    pub const fn access(&self) -> Access {
        self.access
    }
}

impl Drop for HostGrant {
    fn drop(&mut self) {
        self.held.take().into_iter().for_each(|held| self.mmu.release(held));
        self.granter.grants().lock().unpin(&self.mmu, self.reference, self.access);
    }
}
