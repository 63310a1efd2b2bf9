//! `memory_op`: what the domain has, and where the M2P is.

use pv_abi::hypercall::HypercallNumber;
use pv_abi::memory::{E820Entry, MemoryDomain, MemoryMap, MemoryOp};
use pv_abi::{DomId, Errno, Pfn};

use super::report::Report;
use super::{WILD, hypercall};
use crate::memory::translation;

fn memory_op(op: MemoryOp, address: u64) -> Result<u64, Errno> {
    hypercall(HypercallNumber::MEMORY_OP, [op.0, address, 0, 0, 0])
}

pub fn run(report: &mut Report) {
    let pages = crate::start_info::with(|info| info.nr_pages);
    let mut domain = MemoryDomain { domid: DomId::SELF };
    let current = memory_op(MemoryOp::CURRENT_RESERVATION, &raw mut domain as u64);
    report.check(
        "current reservation",
        current.is_ok_and(|current| current >= pages),
        format_args!("{current:?}, {pages} pages at the start"),
    );
    let maximum = memory_op(MemoryOp::MAXIMUM_RESERVATION, &raw mut domain as u64);
    report.check(
        "maximum reservation",
        maximum.is_ok_and(|maximum| maximum >= pages),
        format_args!("{maximum:?}"),
    );
    memory_map(report);
    m2p(report);
    report.refused("an unknown memory operation", memory_op(MemoryOp(63), 0), Errno::ENOSYS);
    let wild = memory_op(MemoryOp::MACHPHYS_MAPPING, WILD);
    report.refused("a memory operation with a wild address", wild, Errno::EFAULT);
}

/// A domain may have no memory map.
fn memory_map(report: &mut Report) {
    let mut entries = [E820Entry { addr: 0, size: 0, kind: 0 }; 16];
    let mut map = MemoryMap { nr_entries: 16, padding: 0, buffer: entries.as_mut_ptr() as u64 };
    match memory_op(MemoryOp::MEMORY_MAP, &raw mut map as u64) {
        Err(Errno::ENOSYS) => report.check("memory map", true, "none"),
        Err(error) => report.check("memory map", false, error),
        Ok(_) => {
            let known = map.nr_entries.min(16) as usize;
            let ram = entries[..known].iter().any(|entry| entry.kind == E820Entry::RAM && entry.size > 0);
            report.check("memory map", ram, format_args!("{known} ranges"));
        }
    }
}

fn m2p(report: &mut Report) {
    let frames = translation::frames();
    let wrong = (0..frames).find(|pfn| translation::pfn(translation::mfn(Pfn(*pfn))) != Some(Pfn(*pfn)));
    report.check(
        "p2m and M2P agree on every frame",
        // The frame behind shared_info's page is still the domain's own.
        wrong.is_none(),
        format_args!("{frames} frames, first difference: {wrong:x?}"),
    );
    let first = translation::m2p().v_start;
    let traps = super::laboratory::write(first, 0);
    report.check(
        "the M2P is read-only",
        traps.is_err_and(|trap| trap.vector == 14 && trap.error & 2 != 0),
        "page fault on writing",
    );
}
