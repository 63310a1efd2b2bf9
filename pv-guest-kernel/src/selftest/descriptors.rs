//! Segments: the descriptor table, its entries, and segment bases.

use pv_abi::Errno;
use pv_abi::hypercall::HypercallNumber;
use pv_abi::segment::SegmentBase;

use super::laboratory::{self, Page};
use super::report::Report;
use super::{WILD, hypercall};
use crate::memory::{KERNEL_DATA, KERNEL_READ_ONLY};

/// `mov rax, fs:[0]; ret` and `mov rax, gs:[0]; ret`
const READ_FS: &[u8] = &[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0xc3];
const READ_GS: &[u8] = &[0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0xc3];

/// A flat data segment of DPL 3.
pub const DATA_SEGMENT: u64 = 0x00cf_f300_0000_ffff;
/// A call gate of DPL 3 to the hypervisor's range.
pub const CALL_GATE: u64 = 0x0000_ec00_e008_0000;

pub fn run(report: &mut Report) {
    bases(report);
    table(report);
}

pub fn set_gdt(frames: &[u64], entries: u64) -> Result<u64, Errno> {
    hypercall(HypercallNumber::SET_GDT, [frames.as_ptr() as u64, entries, 0, 0, 0])
}

pub fn update_descriptor(address: u64, descriptor: u64) -> Result<u64, Errno> {
    hypercall(HypercallNumber::UPDATE_DESCRIPTOR, [address, descriptor, 0, 0, 0])
}

fn bases(report: &mut Report) {
    let set = |which: SegmentBase, base: u64| {
        hypercall(HypercallNumber::SET_SEGMENT_BASE, [which.0, base, 0, 0, 0])
    };
    let page = Page::new();
    page.set(0, 0x5e9);
    for (which, code) in [(SegmentBase::FS, READ_FS), (SegmentBase::GS_KERNEL, READ_GS)] {
        let name = which.name().unwrap_or("base");
        report.done(&alloc::format!("setting {name}"), set(which, page.address()));
        report.runs(&alloc::format!("reading through {name}"), &laboratory::run(code, 0, 0), 0x5e9);
        report.done(&alloc::format!("setting {name} to 0"), set(which, 0));
    }
    report.done("setting GS_USER", set(SegmentBase::GS_USER, 0));
    report.done("setting GS_USER_SEL", set(SegmentBase::GS_USER_SEL, 0));
    let bad = set(SegmentBase::FS, 1 << 63);
    report.refused("a non-canonical base", bad, Errno::EINVAL);
    report.refused("an unknown base", set(SegmentBase(9), 0), Errno::EINVAL);
}

fn table(report: &mut Report) {
    let table = Page::new();
    table.set(2, DATA_SEGMENT);
    report.refused("a descriptor table that is writable", set_gdt(&[table.mfn().0], 512), Errno::EINVAL);
    table.protect(KERNEL_READ_ONLY).ok();
    report.done("a descriptor table", set_gdt(&[table.mfn().0], 512));
    report.refused("making a descriptor table writable", table.protect(KERNEL_DATA), Errno::EBUSY);
    let place = table.mfn().address() + 3 * 8;
    report.done("a descriptor changed", update_descriptor(place, DATA_SEGMENT));
    // The processor may have set its accessed bit.
    report.equal("the descriptor", table.get(3) & !(1 << 40), DATA_SEGMENT & !(1 << 40));
    report.refused("a call gate", update_descriptor(place, CALL_GATE), Errno::EINVAL);
    report.done("no descriptor table", set_gdt(&[], 0));
    report.done("a former descriptor table made writable", table.protect(KERNEL_DATA));
    let wild = hypercall(HypercallNumber::SET_GDT, [WILD, 512, 0, 0, 0]);
    report.refused("a descriptor table at a wild address", wild, Errno::EFAULT);
    report.refused("a descriptor table that is too long", set_gdt(&[], 9000), Errno::EINVAL);
}
