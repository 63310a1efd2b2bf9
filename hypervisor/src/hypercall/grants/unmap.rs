//! `GNTTABOP_unmap_grant_ref` and `GNTTABOP_unmap_and_replace`. See [`crate::grant::Unmapping`].

use super::{Ran, end, status};
use crate::domain::grants::Parts;
use crate::grant::Unmapping;
use crate::guest_memory::GuestArray;
use crate::hypercall::{Call, Reply};
use crate::paging::{EntryTarget, Progress};
use pv_abi::grant_table::{GrantHandle, UnmapAndReplace, UnmapGrantRef};

/// What one mapping costs, in microseconds.
const COST: u32 = 8;
/// Mappings ended at a time, and settled together.
const CHUNK: usize = 32;

/// `GNTTABOP_unmap_grant_ref`: ends `count` mappings, which the array at the guest's address `at` names.
pub(super) fn unmap_grant_ref(call: &mut Call<'_>, at: u64, count: u64) -> Reply {
    end(unmap_each(call, at, count, false))
}

/// Ends mappings, and moves other entries to their places.
pub(super) fn unmap_and_replace(call: &mut Call<'_>, at: u64, count: u64) -> Reply {
    end(unmap_each(call, at, count, true))
}

// The elements of both are alike but for one word, which only one of them means.
const _: () = assert!(size_of::<UnmapGrantRef>() == size_of::<UnmapAndReplace>());

fn unmap_each(call: &mut Call<'_>, at: u64, count: u64, replaces: bool) -> Ran {
    let array = GuestArray::<UnmapAndReplace>::new(at, count)?;
    while call.progress.elements < array.len() {
        if call.must_pause() {
            return Ok(Progress::Preempted);
        }
        let mut unmapping = Unmapping::new(call.domain.id(), call.budget);
        let mut done = Vec::with_capacity(CHUNK);
        let mut ran = Ok(Progress::Done);
        for index in (call.progress.elements..array.len()).take(CHUNK) {
            let Ok(mut request) = array.get(&call.space(), index) else { break };
            call.spend(COST);
            let root = call.vcpu.context.root.mfn();
            let new = (replaces && request.new_addr != 0)
                .then_some(EntryTarget::Linear { root, address: request.new_addr });
            let dev_bus_addr = if replaces { 0 } else { request.new_addr };
            let parts = Parts::Named { host_addr: request.host_addr, dev_bus_addr };
            let which = (request.handle, parts);
            match status(unmapping.unmap(&call.services.mmu, call.domain, which, new)) {
                Ok(status) => request.status = status,
                Err(stopped) => {
                    ran = stopped;
                    break;
                }
            }
            done.push((index, request));
        }
        call.budget = unmapping.finish(&call.services.mmu, call.domain)?;
        for (index, request) in &done {
            call.progress.elements = call.progress.elements.saturating_add(1);
            array.set(&call.space(), *index, request)?;
        }
        match ran? {
            Progress::Preempted => return Ok(Progress::Preempted),
            // Nothing was done, so the next element could not be read.
            Progress::Done if done.is_empty() => {
                array.get(&call.space(), call.progress.elements)?;
            }
            Progress::Done => {}
        }
    }
    Ok(Progress::Done)
}

/// Ends all of one mapping of the caller's, which may have come to its end otherwise.
pub(super) fn unmap_whole(call: &mut Call<'_>, handle: GrantHandle) -> Ran {
    let mut unmapping = Unmapping::new(call.domain.id(), call.budget);
    let unmapped = status(unmapping.unmap(&call.services.mmu, call.domain, (handle, Parts::All), None));
    call.budget = unmapping.finish(&call.services.mmu, call.domain)?;
    unmapped.map_or_else(|stopped| stopped, |_| Ok(Progress::Done))
}
