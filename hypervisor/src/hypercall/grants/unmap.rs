//! `GNTTABOP_unmap_grant_ref` and `GNTTABOP_unmap_and_replace`.
//!
//! The order is the whole point: a record is taken, so that it is nobody else's; its entry is cleared; the change is
//! settled; and then the pin is given back, which may tell the granter that its page is its own again.

use super::{Ran, end};
use crate::error::Failure;
use crate::grant::Record;
use crate::guest_memory::GuestArray;
use crate::hypercall::{Call, Reply};
use crate::paging::{Batch, EntryTarget, Mmu, Progress};
use pv_abi::grant_table::{GrantHandle, GrantStatus, UnmapAndReplace, UnmapGrantRef};

/// What one mapping costs, in microseconds.
const COST: u32 = 8;
/// Mappings ended at a time, and settled together.
const CHUNK: usize = 32;

/// Ends mappings.
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
        let mut ended = Ended::new(call);
        let mut done = Vec::with_capacity(CHUNK);
        let mut ran = Ok(Progress::Done);
        for index in (call.progress.elements..array.len()).take(CHUNK) {
            let Ok(mut request) = array.get(&call.space(), index) else { break };
            call.spend(COST);
            let new = if replaces { request.new_addr } else { 0 };
            match ended.unmap(call, (request.handle, request.host_addr), new) {
                Ok(status) => request.status = status,
                Err(stopped) => {
                    ran = stopped;
                    break;
                }
            }
            done.push((index, request));
        }
        call.budget = *ended.batch.budget();
        ended.finish(call)?;
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

/// Ends one mapping of the caller's, whatever its budget.
pub(super) fn unmap_now(call: &Call<'_>, handle: GrantHandle, address: u64) -> Result<(), Failure> {
    let mut ended = Ended::new(call);
    let unmapped = ended.unmap(call, (handle, address), 0);
    ended.finish(call)?;
    unmapped.map(|_| ()).or_else(|stopped| stopped.map(|_| ()))
}

/// Mappings whose entries are cleared and not yet settled.
struct Ended {
    batch: Batch,
    records: Vec<(GrantHandle, Record)>,
}

impl Ended {
    fn new(call: &Call<'_>) -> Self {
        Self { batch: Batch::new(call.domain.id(), call.budget), records: Vec::new() }
    }

    /// Clears, or replaces, the entry of a mapping. The error is what ends the call.
    fn unmap(
        &mut self,
        call: &Call<'_>,
        (handle, address): (GrantHandle, u64),
        new: u64,
    ) -> Result<GrantStatus, Ran> {
        let taken = call.domain.maptrack().lock().take(handle, address);
        let record = match taken {
            Ok(record) => record,
            Err(status) => return Ok(status),
        };
        let (mmu, put_back): (&Mmu, _) = (&call.services.mmu, |record| {
            call.domain.maptrack().lock().fill(handle, record);
        });
        let changed = match new {
            // As on Xen, only a mapping by linear address is replaced.
            1.. if record.is_entry => {
                put_back(record);
                return Ok(GrantStatus::GENERAL_ERROR);
            }
            0 => mmu.unmap_lent(record.place, record.frame, &mut self.batch),
            address => {
                let from = EntryTarget::Linear { root: call.vcpu.context.root, address };
                mmu.replace_lent(record.place, record.frame, from, &mut self.batch)
            }
        };
        match changed {
            Ok(Progress::Done) => {
                self.records.push((handle, record));
                Ok(GrantStatus::OKAY)
            }
            Ok(Progress::Preempted) => {
                put_back(record);
                Err(Ok(Progress::Preempted))
            }
            Err(Failure::Refused(_)) => {
                put_back(record);
                Ok(GrantStatus::GENERAL_ERROR)
            }
            Err(lost) => Err(Err(lost)),
        }
    }

    /// Settles, and gives the pins back. Where the machine fails, they are never given back.
    fn finish(self, call: &Call<'_>) -> Result<(), Failure> {
        let mmu = &call.services.mmu;
        mmu.finish(self.batch)?;
        for (handle, Record { granter, reference, access, .. }) in self.records {
            granter.grants().lock().unpin(mmu, reference, access);
            call.domain.maptrack().lock().free(handle);
        }
        Ok(())
    }
}
