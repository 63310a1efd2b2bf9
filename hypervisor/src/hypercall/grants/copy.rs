//! `GNTTABOP_copy`: pages are used for the moment of the copy, and mapped nowhere.

use super::{Ran, end, granter};
use crate::domain::Domain;
use crate::frame::Reference;
use crate::grant::{Access, status_of};
use crate::guest_memory::GuestArray;
use crate::hypercall::{Call, Reply};
use crate::paging::Progress;
use pv_abi::grant_table::{CopyPointer, GrantCopy, GrantStatus};
use pv_abi::{DomId, GrantRef, Mfn, PAGE_SIZE};
use std::sync::Arc;

/// What one copy costs, in microseconds.
const COST: u32 = 4;

/// Copies one element after the other, and says of each how it ended.
pub(super) fn copy(call: &mut Call<'_>, at: u64, count: u64) -> Reply {
    end(copy_each(call, at, count))
}

fn copy_each(call: &mut Call<'_>, at: u64, count: u64) -> Ran {
    let array = GuestArray::<GrantCopy>::new(at, count)?;
    while call.progress.elements < array.len() {
        if call.must_pause() {
            return Ok(Progress::Preempted);
        }
        call.spend(COST);
        let index = call.progress.elements;
        let mut request = array.get(&call.space(), index)?;
        request.status = copy_one(call, &request).err().unwrap_or(GrantStatus::OKAY);
        call.progress.elements = call.progress.elements.saturating_add(1);
        array.set(&call.space(), index, &request)?;
    }
    Ok(Progress::Done)
}

fn copy_one(call: &Call<'_>, request: &GrantCopy) -> Result<(), GrantStatus> {
    let GrantCopy { source, dest, len, flags, .. } = *request;
    let length = usize::from(len);
    let (from, to) = (usize::from(source.offset), usize::from(dest.offset));
    if from.max(to).saturating_add(length) > PAGE_SIZE {
        return Err(GrantStatus::BAD_COPY_ARG);
    }
    let mut bytes = [0; PAGE_SIZE];
    let bytes = bytes.get_mut(..length).ok_or(GrantStatus::BAD_COPY_ARG)?;
    let memory = call.services.mmu.memory();
    let source = Page::take(call, source, flags & GrantCopy::SOURCE_GREF != 0, Access::ReadOnly)?;
    let read = memory.read(source.mfn(), from, bytes);
    source.give_back(call);
    read.map_err(|_| GrantStatus::BAD_PAGE)?;
    let dest = Page::take(call, dest, flags & GrantCopy::DEST_GREF != 0, Access::ReadWrite)?;
    let written = memory.write(dest.mfn(), to, bytes);
    dest.give_back(call);
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
    fn take(call: &Call<'_>, side: CopyPointer, is_grant: bool, access: Access) -> Result<Self, GrantStatus> {
        let mmu = &call.services.mmu;
        if !is_grant {
            // Nor by the own number.
            if side.domid != DomId::SELF {
                return Err(GrantStatus::PERMISSION_DENIED);
            }
            let held = mmu.hold(call.domain.id(), Mfn(side.page), access.is_writable());
            return Ok(Self { held: held.map_err(status_of)?, pinned: None });
        }
        let reference = GrantRef(side.page as u32);
        let granter = match side.domid {
            DomId::SELF => call.domain.clone(),
            other => granter(call, other)?,
        };
        let held = granter.grants().lock().pin(mmu, granter.id(), reference, call.domain.id(), access)?;
        Ok(Self { held, pinned: Some((granter, reference, access)) })
    }

    fn mfn(&self) -> Mfn {
        self.held.mfn()
    }

    fn give_back(self, call: &Call<'_>) {
        let mmu = &call.services.mmu;
        mmu.release(self.held);
        if let Some((granter, reference, access)) = self.pinned {
            granter.grants().lock().unpin(mmu, reference, access);
        }
    }
}
