//! `GNTTABOP_copy`.

use super::{Ran, end, granter};
use crate::grant::{Side, copy};
use crate::guest_memory::GuestArray;
use crate::hypercall::{Call, Reply};
use crate::paging::Progress;
use pv_abi::grant_table::{CopyPointer, GrantCopy, GrantStatus};
use pv_abi::{DomId, GrantRef, Mfn};

/// What one copy costs, in microseconds.
const COST: u32 = 4;

/// Copies one element after the other, and says of each how it ended.
pub(super) fn copy_grants(call: &mut Call<'_>, at: u64, count: u64) -> Reply {
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
    let from = (side(call, source, flags & GrantCopy::SOURCE_GREF != 0)?, source.offset);
    let to = (side(call, dest, flags & GrantCopy::DEST_GREF != 0)?, dest.offset);
    copy(&call.services.mmu, call.domain.id(), from, to, len)
}

fn side(call: &Call<'_>, side: CopyPointer, is_grant: bool) -> Result<Side, GrantStatus> {
    match (is_grant, side.domid) {
        (false, DomId::SELF) => Ok(Side::Own(Mfn(side.page))),
        // Nor by the own number.
        (false, _) => Err(GrantStatus::PERMISSION_DENIED),
        (true, DomId::SELF) => Ok(Side::Granted(call.domain.clone(), GrantRef(side.page as u32))),
        (true, other) => Ok(Side::Granted(granter(call, other)?, GrantRef(side.page as u32))),
    }
}
