//! Checked updates of page-table entries: `mmu_update`, `update_va_mapping`; and how batches go through their
//! arrays.

use super::{Arguments, Call, Outcome, Reply, done};
use crate::error::{Failure, Refusal};
use crate::guest_memory::GuestArray;
use crate::paging::{Batch, Progress};
use pv_abi::mmu::UpdateVaMappingFlags;
use pv_abi::page_table::Pte;
use pv_abi::{DomId, Errno};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Updates read, and made under one lock, at a time: 1 KiB.
const UPDATES_PER_READ: usize = 64;

const COST_OF_FLUSH: u32 = 16;

/// How far a batch has come in one run.
pub(super) type Ran = Result<Progress, Failure>;

/// Goes through a batch, `[array, count, done, domain]`, from where it stopped before. `CHUNK` elements are read at
/// a time; `some` goes through them and counts those that it has done. The first failure ends it.
pub(super) fn run_batch<T: FromBytes + IntoBytes + Immutable, const CHUNK: usize>(
    call: &mut Call<'_>,
    arguments: Arguments,
    mut some: impl FnMut(&mut Call<'_>, &[T]) -> Ran,
) -> Ran {
    let [array, count, _, domain, ..] = arguments;
    check_domain(call, domain)?;
    let array = GuestArray::new(array, u64::from(count as u32))?;
    while call.progress.elements < array.len() {
        if call.must_pause() {
            return Ok(Progress::Preempted);
        }
        let mut chunk = <[T; CHUNK]>::new_zeroed();
        let read = array.get_some(&call.space(), call.progress.elements, &mut chunk)?;
        call.spend(read.len() as u32);
        if some(call, read)? == Progress::Preempted {
            return Ok(Progress::Preempted);
        }
    }
    Ok(Progress::Done)
}

/// Stores how many elements are done, where the guest wants to know, and says how the batch ended.
pub(super) fn end_batch(call: &Call<'_>, arguments: Arguments, ran: Ran) -> Reply {
    let [_, _, done_at, ..] = arguments;
    match ran {
        Ok(Progress::Preempted) => return Ok(Outcome::Preempted),
        Ok(Progress::Done) | Err(Failure::Refused(_)) => {}
        Err(failure) => return Err(failure),
    }
    let stored = match done_at {
        0 => Ok(()),
        address => call.write(address, &(call.progress.elements as u32)),
    };
    ran.and(stored)?;
    done()
}

/// The domain whose tables and frames are meant: bits 0–15 the frames', 16–31 the tables' plus 1, or 0.
fn check_domain(call: &Call<'_>, word: u64) -> Result<(), Refusal> {
    call.check_self(DomId(word as u16))?;
    match (word >> 16) as u16 {
        0 => Ok(()),
        tables => call.check_self(DomId(tables.wrapping_sub(1))),
    }
}

/// `mmu_update(requests, count, done, domain)`.
pub fn mmu_update(call: &mut Call<'_>, arguments: Arguments) -> Reply {
    let mmu = &call.services.mmu;
    let mut batch = Batch::new(call.domain.id(), call.budget);
    let ran = run_batch::<_, UPDATES_PER_READ>(call, arguments, |call, requests| {
        let (done, progress) = mmu.mmu_updates(requests, &mut batch);
        call.progress.elements = call.progress.elements.saturating_add(done as u64);
        progress
    });
    call.finish(batch)?;
    end_batch(call, arguments, ran)
}

/// `update_va_mapping(address, entry, flags)`.
pub fn update_va_mapping(call: &mut Call<'_>, [address, value, flags, ..]: Arguments) -> Reply {
    let asked = asks_for_flush(call, flags)?;
    let mmu = &call.services.mmu;
    let mut batch = Batch::new(call.domain.id(), call.budget);
    let updated = mmu.update_va_mapping(call.vcpu.context.root.mfn(), address, Pte(value), &mut batch);
    call.finish(batch)?;
    match updated? {
        Progress::Preempted => Ok(Outcome::Preempted),
        Progress::Done => {
            if asked {
                flush(call)?;
            }
            done()
        }
    }
}

/// A flush is one of everything, everywhere: more than any that can be asked for. Each pcpu may have to be kicked.
pub(super) fn flush(call: &mut Call<'_>) -> Result<(), Failure> {
    call.spend(COST_OF_FLUSH);
    Ok(call.services.mmu.flush()?)
}

/// Whether a flush is asked for. A pointer to a mask of vCPUs must be readable; what it says does not matter as
/// long as a flush is one of all pcpus.
fn asks_for_flush(call: &Call<'_>, flags: u64) -> Result<bool, Failure> {
    if flags & UpdateVaMappingFlags::FLUSH_TYPE_MASK == 0 {
        return Ok(false);
    }
    match flags & !UpdateVaMappingFlags::FLUSH_TYPE_MASK {
        0 => {}
        all if all == UpdateVaMappingFlags::ALL.bits() => {}
        mask => check_mask(call, mask)?,
    }
    Ok(true)
}

/// Checks a pointer to a mask of vCPUs.
pub(super) fn check_mask(call: &Call<'_>, address: u64) -> Result<(), Failure> {
    call.read::<u64>(address)
        .map(|_| ())
        .map_err(|_| Refusal::new(Errno::EFAULT, "the mask of vCPUs cannot be read").into())
}
