//! Changes of a domain's memory: frames given back, and taken again. One page an extent; no contiguous ones.
//!
//! As on Xen, these calls return how many extents they did, and say nothing about why they stopped: a request that
//! cannot even be read has done none. The domain cannot have more pages than it may.
//!
//! A frame that is given back is free once nothing refers to it: what is mapped, a table, pinned, or in a vCPU's use
//! stays the domain's until that ends, and counts as one of its pages (guarded by `hypercall::tests::reservation`).

use super::{Call, Outcome, Reply, refuse};
use crate::error::Failure;
use crate::guest_memory::GuestArray;
use pv_abi::memory::{MemoryExchange, MemoryReservation};
use pv_abi::{Errno, Mfn, Pfn};

/// What one extent costs, in microseconds: a frame may have to be scrubbed.
const COST: u32 = 4;
/// As many as Xen takes: more do not fit into its continuation.
const MOST_EXTENTS: u64 = u32::MAX as u64 >> 6;

/// Goes through the extents, until `each` fails.
fn run(call: &mut Call<'_>, at: u64, each: impl Fn(&Call<'_>, Extent) -> Result<(), Failure>) -> Reply {
    let done = |call: &Call<'_>| Ok(Outcome::Done(call.progress.elements));
    let Ok(request) = call.read::<MemoryReservation>(at) else { return done(call) };
    call.check_self(request.domid)?;
    let array = GuestArray::<u64>::new(request.extent_start, request.nr_extents);
    let (Ok(array), true) = (array, request.extent_order == 0 && request.nr_extents <= MOST_EXTENTS) else {
        return done(call);
    };
    while call.progress.elements < array.len() {
        if call.must_pause() {
            return Ok(Outcome::Preempted);
        }
        call.spend(COST);
        match each(call, Extent { array, index: call.progress.elements }) {
            Ok(()) => call.progress.elements = call.progress.elements.saturating_add(1),
            Err(Failure::Refused(_)) => break,
            Err(failure) => return Err(failure),
        }
    }
    done(call)
}

/// An element of the guest's array of extents.
struct Extent {
    array: GuestArray<u64>,
    index: u64,
}

impl Extent {
    fn get(&self, call: &Call<'_>) -> Result<u64, Failure> {
        self.array.get(&call.space(), self.index)
    }
}

/// `XENMEM_decrease_reservation`: the extents are frames.
pub(super) fn decrease(call: &mut Call<'_>, at: u64) -> Reply {
    run(call, at, |call, extent| {
        Ok(call.services.mmu.deallocate(call.domain.id(), Mfn(extent.get(call)?))?)
    })
}

/// `XENMEM_increase_reservation`, or `XENMEM_populate_physmap`, where the extents say which pfns the new frames are.
/// The frames are told in the extents.
pub(super) fn increase(call: &mut Call<'_>, at: u64, populates: bool) -> Reply {
    run(call, at, |call, extent| {
        let pfn = if populates { Some(Pfn(extent.get(call)?)) } else { None };
        add(call, &extent, pfn)
    })
}

fn add(call: &Call<'_>, extent: &Extent, pfn: Option<Pfn>) -> Result<(), Failure> {
    let (mmu, domain) = (&call.services.mmu, call.domain.id());
    let most = call.domain.maximum_pages().saturating_add(call.domain.shared_frames());
    let mfn = mmu.allocate_up_to(domain, most)?;
    let told = extent.array.set(&call.space(), extent.index, &mfn.0);
    if let Err(failure) = told {
        mmu.deallocate(domain, mfn)?;
        return Err(failure);
    }
    if let Some(pfn) = pfn {
        mmu.set_pfn(mfn, pfn);
    }
    Ok(())
}

/// `XENMEM_current_reservation`: how many pages the domain has.
pub(super) fn current(call: &Call<'_>) -> u64 {
    call.services.mmu.frames_of(call.domain.id()).saturating_sub(call.domain.shared_frames())
}

/// `XENMEM_exchange`: there are no contiguous frames to be had, and there is no other use for it.
pub(super) fn exchange(call: &mut Call<'_>, at: u64) -> Reply {
    let request: MemoryExchange = call.read(at)?;
    call.check_self(request.input.domid)?;
    call.check_self(request.output.domid)?;
    if request.nr_exchanged > request.input.nr_extents {
        return refuse(Errno::EINVAL, "more is exchanged than there is");
    }
    refuse(Errno::ENOMEM, "there are no contiguous frames")
}
