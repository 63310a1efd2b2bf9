//! `multicall`: each call has its own result, and one that fails does not stop the others.

use pv_abi::Errno;
use pv_abi::hypercall::{HypercallNumber, MulticallEntry};
use pv_abi::page_table::Pte;
use pv_abi::sched::SchedOp;
use pv_abi::version::VersionOp;

use super::laboratory::{Page, read};
use super::report::Report;
use super::{WILD, hypercall};
use crate::arch::hypercall::multicall;
use crate::memory::KERNEL_DATA;

fn entry(number: HypercallNumber, args: [u64; 3]) -> MulticallEntry {
    let mut entry = MulticallEntry { op: number.0, result: 0xbad, args: [0; 6] };
    entry.args[..3].copy_from_slice(&args);
    entry
}

pub fn run(report: &mut Report) {
    let (page, other) = (Page::new(), Page::new());
    other.set(0, 9);
    let mapping = Pte::new(other.mfn(), KERNEL_DATA).0;
    let mut entries = [
        entry(HypercallNumber::XEN_VERSION, [VersionOp::PAGESIZE.0, 0, 0]),
        entry(HypercallNumber(60), [0; 3]),
        entry(HypercallNumber::UPDATE_VA_MAPPING, [page.address(), mapping, 2]),
        entry(HypercallNumber::SCHED_OP, [SchedOp::YIELD.0, 0, 0]),
    ];
    // SAFETY: the calls change one page of this check.
    let result = unsafe { multicall(&mut entries) };
    report.done("a batch of hypercalls", result);
    let results = entries.map(|entry| Errno::from_return(entry.result));
    report.equal("their results", results, [Ok(4096), Err(Errno::ENOSYS), Ok(0), Ok(0)]);
    report.runs("the effect of the third", &read(page.address()), 9);
    report.equal("an empty batch", hypercall(HypercallNumber::MULTICALL, [0; 5]), Ok(0));
    let wild = hypercall(HypercallNumber::MULTICALL, [WILD, 1, 0, 0, 0]);
    report.refused("a batch at a wild address", wild, Errno::EFAULT);
}
