//! A copy from or to what is granted: pages are used for its moment, and mapped nowhere.

use super::Access;
use crate::domain::Domain;
use crate::domain::grants::status_of;
use crate::frame::Reference;
use crate::paging::Mmu;
use pv_abi::grant_table::GrantStatus;
use pv_abi::{DomId, GrantRef, Mfn, PAGE_SIZE};
use std::sync::Arc;

/// Where a copy comes from, or goes to.
#[derive(Clone, Debug)]
pub enum Side {
    /// A frame of the caller's.
    Own(Mfn),
    /// What that entry of that domain's grants.
    Granted(Arc<Domain>, GrantRef),
}

/// Copies `length` bytes for the domain `by`, from one page's offset to another's.
///
/// # Errors
/// Xen's status, and nothing was written.
pub fn copy(
    mmu: &Mmu,
    by: DomId,
    (source, from): (Side, u16),
    (dest, to): (Side, u16),
    length: u16,
) -> Result<(), GrantStatus> {
    let (length, from, to) = (usize::from(length), usize::from(from), usize::from(to));
    if from.max(to).saturating_add(length) > PAGE_SIZE {
        return Err(GrantStatus::BAD_COPY_ARG);
    }
    let mut bytes = [0; PAGE_SIZE];
    let bytes = bytes.get_mut(..length).ok_or(GrantStatus::BAD_COPY_ARG)?;
    let source = Page::take(mmu, by, source, Access::ReadOnly)?;
    let read = mmu.memory().read(source.held.mfn(), from, bytes);
    source.give_back(mmu);
    read.map_err(|_| GrantStatus::BAD_PAGE)?;
    let dest = Page::take(mmu, by, dest, Access::ReadWrite)?;
    let written = mmu.memory().write(dest.held.mfn(), to, bytes);
    dest.give_back(mmu);
    written.map_err(|_| GrantStatus::BAD_PAGE)
}

/// A page, held for the moment.
#[must_use = "it is given back"]
struct Page {
    held: Reference,
    /// Where it is a granted one.
    pinned: Option<(Arc<Domain>, GrantRef, Access)>,
}

impl Page {
    fn take(mmu: &Mmu, by: DomId, side: Side, access: Access) -> Result<Self, GrantStatus> {
        let (held, pinned) = match side {
            Side::Own(mfn) => (mmu.hold(by, mfn, access.is_writable()).map_err(status_of)?, None),
            Side::Granted(granter, reference) => {
                let held = granter.grants().lock().pin(mmu, granter.id(), reference, by, access)?;
                (held, Some((granter, reference, access)))
            }
        };
        Ok(Self { held, pinned })
    }

    fn give_back(self, mmu: &Mmu) {
        mmu.release(self.held);
        if let Some((granter, reference, access)) = self.pinned {
            granter.grants().lock().unpin(mmu, reference, access);
        }
    }
}
