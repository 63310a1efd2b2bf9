//! `mmuext_op`: pins, root tables, flushes.

use super::mmu::{Ran, check_mask, end_batch, flush, run_batch};
use super::{Arguments, Call, Reply};
use crate::error::Refusal;
use crate::paging::Progress;
use pv_abi::mmu::{MmuExtCommand as C, MmuExtOp};
use pv_abi::page_table::Level;
use pv_abi::{Errno, Mfn, PAGE_SIZE};

/// Local descriptors that there can be.
const MAX_LDT_ENTRIES: u32 = 8192;

/// `mmuext_op(operations, count, done, domain)`.
pub fn mmuext_op(call: &mut Call<'_>, arguments: Arguments) -> Reply {
    // One at a time: an operation may replace the root under which the next one is read.
    let ran = run_batch::<_, 1>(call, arguments, |call, operations| {
        for &each in operations {
            if operation(call, each)? == Progress::Preempted {
                return Ok(Progress::Preempted);
            }
            call.progress.elements = call.progress.elements.saturating_add(1);
        }
        Ok(Progress::Done)
    });
    end_batch(call, arguments, ran)
}

fn operation(call: &mut Call<'_>, op: MmuExtOp) -> Ran {
    match op.cmd {
        C::PIN_L1_TABLE => pin(call, op, Level::L1),
        C::PIN_L2_TABLE => pin(call, op, Level::L2),
        C::PIN_L3_TABLE => pin(call, op, Level::L3),
        C::PIN_L4_TABLE => pin(call, op, Level::L4),
        C::UNPIN_TABLE => call.services.mmu.unpin(call.domain.id(), Mfn(op.arg1), &mut call.budget),
        C::NEW_BASEPTR => {
            let (mmu, domain) = (&call.services.mmu, call.domain.id());
            let progress = mmu.new_baseptr(domain, &mut call.vcpu.roots, Mfn(op.arg1), &mut call.budget)?;
            call.vcpu.replace_root();
            Ok(progress)
        }
        C::NEW_USER_BASEPTR => {
            let (mmu, domain) = (&call.services.mmu, call.domain.id());
            let root = (op.arg1 != 0).then_some(Mfn(op.arg1));
            mmu.new_user_baseptr(domain, &mut call.vcpu.roots, root, &mut call.budget)
        }
        C::TLB_FLUSH_LOCAL | C::INVLPG_LOCAL | C::TLB_FLUSH_ALL | C::INVLPG_ALL => {
            flush(call).map(|()| Progress::Done)
        }
        C::TLB_FLUSH_MULTI | C::INVLPG_MULTI => {
            // Here a mask that cannot be read is −EINVAL, where it is −EFAULT with update_va_mapping.
            check_mask(call, op.arg2).map_err(|_| Refusal::new(Errno::EINVAL, "the mask cannot be read"))?;
            flush(call).map(|()| Progress::Done)
        }
        C::SET_LDT => {
            set_ldt(op)?;
            Ok(Progress::Done)
        }
        C::FLUSH_CACHE | C::FLUSH_CACHE_GLOBAL => {
            Err(Refusal::new(Errno::EACCES, "no device needs its caches flushed").into())
        }
        C::MARK_SUPER | C::UNMARK_SUPER => {
            Err(Refusal::new(Errno::EOPNOTSUPP, "large pages are not offered").into())
        }
        _ => Err(Refusal::new(Errno::ENOSYS, "no such operation").into()),
    }
}

/// "No local descriptors" is all that can be set.
fn set_ldt(op: MmuExtOp) -> Result<(), Refusal> {
    match op.arg2 as u32 {
        0 => Ok(()),
        entries if entries > MAX_LDT_ENTRIES || !(op.arg1 as usize).is_multiple_of(PAGE_SIZE) => {
            Err(Refusal::new(Errno::EINVAL, "local descriptors cannot lie there"))
        }
        _ => Err(Refusal::new(Errno::EOPNOTSUPP, "local descriptors are not offered")),
    }
}

fn pin(call: &mut Call<'_>, op: MmuExtOp, level: Level) -> Ran {
    call.services.mmu.pin(call.domain.id(), Mfn(op.arg1), level, &mut call.budget)
}
