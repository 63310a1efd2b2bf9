//! `GNTTABOP_map_grant_ref`.

use super::unmap::unmap_now;
use super::{Ran, end, granter};
use crate::domain::Domain;
use crate::error::{Failure, Refusal};
use crate::grant::{Access, Record};
use crate::guest_memory::GuestArray;
use crate::hypercall::{Call, Reply};
use crate::paging::{Batch, EntryPlace, EntryTarget, Progress};
use pv_abi::grant_table::{GrantStatus, MapFlags, MapGrantRef};
use pv_abi::page_table::PteFlags;
use pv_abi::{Errno, Mfn};
use std::sync::Arc;

/// What one mapping costs, in microseconds.
const COST: u32 = 8;

/// What an element asks for, checked as far as it can be without touching anything.
struct Wanted {
    granter: Arc<Domain>,
    access: Access,
    target: EntryTarget,
    available: PteFlags,
}

/// Maps what others grant, one element after the other, and says of each how it ended.
pub(super) fn map_grant_ref(call: &mut Call<'_>, at: u64, count: u64) -> Reply {
    let mut batch = Batch::new(call.domain.id(), call.budget);
    let ran = map_each(call, at, count, &mut batch);
    call.services.mmu.finish(batch)?;
    end(ran)
}

fn map_each(call: &mut Call<'_>, at: u64, count: u64, batch: &mut Batch) -> Ran {
    let array = GuestArray::<MapGrantRef>::new(at, count)?;
    while call.progress.elements < array.len() {
        if call.must_pause() {
            return Ok(Progress::Preempted);
        }
        call.spend(COST);
        let index = call.progress.elements;
        let mut request = array.get(&call.space(), index)?;
        let mapped = map(call, batch, &mut request);
        call.budget = *batch.budget();
        if mapped? == Progress::Preempted {
            return Ok(Progress::Preempted);
        }
        if array.set(&call.space(), index, &request).is_err() {
            if request.status == GrantStatus::OKAY {
                unmap_now(call, request.handle, request.host_addr)?;
            }
            return Err(Refusal::new(Errno::EFAULT, "a mapping's handle cannot be stored").into());
        }
        call.progress.elements = call.progress.elements.saturating_add(1);
    }
    Ok(Progress::Done)
}

fn map(call: &Call<'_>, batch: &mut Batch, request: &mut MapGrantRef) -> Ran {
    let tried = check(call, request).and_then(|wanted| {
        let handle = call.domain.maptrack().lock().reserve().ok_or(GrantStatus::NO_SPACE)?;
        Ok((wanted, handle))
    });
    let (wanted, handle) = match tried {
        Ok(tried) => tried,
        Err(status) => {
            request.status = status;
            return Ok(Progress::Done);
        }
    };
    let made = map_pinned(call, batch, request, &wanted);
    let mut maptrack = call.domain.maptrack().lock();
    request.status = match made {
        Ok(Ok((place, frame))) => {
            let Wanted { granter, access, target, .. } = wanted;
            let is_entry = matches!(target, EntryTarget::Machine(_));
            let (reference, address) = (request.reference, request.host_addr);
            maptrack.fill(handle, Record { granter, reference, access, frame, place, address, is_entry });
            (request.handle, request.dev_bus_addr) = (handle, frame.address());
            GrantStatus::OKAY
        }
        Ok(Err(status)) => {
            maptrack.free(handle);
            status
        }
        Err(stopped) => {
            maptrack.free(handle);
            return stopped;
        }
    };
    Ok(Progress::Done)
}

/// Pins the entry and maps its frame. The error is what ends the call: it is to go on later, or its domain is lost.
fn map_pinned(
    call: &Call<'_>,
    batch: &mut Batch,
    request: &MapGrantRef,
    wanted: &Wanted,
) -> Result<Result<(EntryPlace, Mfn), GrantStatus>, Ran> {
    let (mmu, Wanted { granter, access, target, available }) = (&call.services.mmu, wanted);
    let pinned = granter.grants().lock().pin(mmu, granter.id(), request.reference, call.domain.id(), *access);
    let lent = match pinned {
        Ok(lent) => lent,
        Err(status) => return Ok(Err(status)),
    };
    let frame = lent.mfn();
    let unpin = || granter.grants().lock().unpin(mmu, request.reference, *access);
    match mmu.map_lent(*target, lent, *available, batch) {
        Ok(Some(place)) => Ok(Ok((place, frame))),
        Ok(None) => {
            unpin();
            Err(Ok(Progress::Preempted))
        }
        Err(Failure::Refused(_)) => {
            unpin();
            Ok(Err(GrantStatus::GENERAL_ERROR))
        }
        // The domain is lost, and what it may have mapped stays in use.
        Err(lost) => Err(Err(lost)),
    }
}

fn check(call: &Call<'_>, request: &MapGrantRef) -> Result<Wanted, GrantStatus> {
    let has = |flag| request.flags & flag != 0;
    if !has(MapFlags::HOST_MAP | MapFlags::DEVICE_MAP) {
        return Err(GrantStatus::BAD_GNTREF);
    }
    if !has(MapFlags::HOST_MAP) {
        return Err(GrantStatus::GENERAL_ERROR); // there are no devices to map for
    }
    let target = match has(MapFlags::CONTAINS_PTE) {
        true => EntryTarget::Machine(request.host_addr),
        false => EntryTarget::Linear { root: call.vcpu.context.root, address: request.host_addr },
    };
    let bits = u64::from(request.flags >> MapFlags::GUEST_AVAIL_SHIFT & 7);
    Ok(Wanted {
        granter: granter(call, request.dom)?,
        access: if has(MapFlags::READ_ONLY) { Access::ReadOnly } else { Access::ReadWrite },
        target,
        available: PteFlags::from_bits_truncate(bits << PteFlags::AVAIL0.bits().trailing_zeros()),
    })
}
