//! `GNTTABOP_map_grant_ref`.

use super::unmap::unmap_whole;
use super::{Ran, end, granter, status};
use crate::error::Refusal;
use crate::grant::{Access, Stop, Wanted, map};
use crate::guest_memory::GuestArray;
use crate::hypercall::{Call, Reply};
use crate::paging::{Batch, EntryTarget, Progress};
use pv_abi::Errno;
use pv_abi::grant_table::{GrantStatus, MapFlags, MapGrantRef};
use pv_abi::page_table::PteFlags;

/// What one mapping costs, in microseconds.
const COST: u32 = 8;

/// Maps what others grant, one element after the other, and says of each how it ended.
pub(super) fn map_grant_ref(call: &mut Call<'_>, at: u64, count: u64) -> Reply {
    if call.progress.untold.is_none() {
        let mut batch = Batch::new(call.domain.id(), call.budget);
        let ran = map_each(call, at, count, &mut batch);
        call.finish(batch)?;
        if call.progress.untold.is_none() {
            return end(ran);
        }
    }
    end(undo(call))
}

const UNTOLD: Refusal = Refusal::new(Errno::EFAULT, "a mapping's handle cannot be stored");

/// Ends the mapping of which the guest cannot be told, in as many runs as that takes.
fn undo(call: &mut Call<'_>) -> Ran {
    if let Some(handle) = call.progress.untold
        && unmap_whole(call, handle)? == Progress::Preempted
    {
        return Ok(Progress::Preempted);
    }
    call.progress.untold = None;
    Err(UNTOLD.into())
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
        if map_one(call, batch, &mut request)? == Progress::Preempted {
            return Ok(Progress::Preempted);
        }
        if array.set(&call.space(), index, &request).is_err() {
            let made = request.status == GrantStatus::OKAY;
            call.progress.untold = made.then_some(request.handle);
            return Err(UNTOLD.into());
        }
        call.progress.elements = call.progress.elements.saturating_add(1);
    }
    Ok(Progress::Done)
}

fn map_one(call: &Call<'_>, batch: &mut Batch, request: &mut MapGrantRef) -> Ran {
    let wanted = check(call, request).map_err(Stop::Refused);
    let mapped = wanted.and_then(|wanted| map(&call.services.mmu, call.domain, wanted, batch));
    let mapped = mapped.map(|(handle, frame)| {
        (request.handle, request.dev_bus_addr) = (handle, frame.address());
    });
    match status(mapped) {
        Ok(status) => {
            request.status = status;
            Ok(Progress::Done)
        }
        Err(stopped) => stopped,
    }
}

/// What an element asks for, checked as far as it can be without touching anything.
fn check(call: &Call<'_>, request: &MapGrantRef) -> Result<Wanted, GrantStatus> {
    let has = |flag| request.flags & flag != 0;
    if !has(MapFlags::HOST_MAP | MapFlags::DEVICE_MAP) {
        return Err(GrantStatus::BAD_GNTREF);
    }
    let entry = match has(MapFlags::CONTAINS_PTE) {
        true => EntryTarget::Machine(request.host_addr),
        false => EntryTarget::Linear { root: call.vcpu.context.root.mfn(), address: request.host_addr },
    };
    let bits = u64::from(request.flags >> MapFlags::GUEST_AVAIL_SHIFT & 7);
    Ok(Wanted {
        granter: granter(call, request.dom)?,
        reference: request.reference,
        access: if has(MapFlags::READ_ONLY) { Access::ReadOnly } else { Access::ReadWrite },
        target: has(MapFlags::HOST_MAP).then_some(entry),
        device: has(MapFlags::DEVICE_MAP),
        available: PteFlags::from_bits_truncate(bits << PteFlags::AVAIL0.bits().trailing_zeros()),
    })
}
