//! Segment descriptors that would give more than ring 3.

use alloc::format;

use pv_abi::hypercall::HypercallNumber;

use super::report::Report;
use crate::memory::{KERNEL_READ_ONLY, linear, translation};
use crate::selftest::descriptors::{CALL_GATE, DATA_SEGMENT, set_gdt, update_descriptor};
use crate::selftest::hypercall;
use crate::selftest::laboratory::Page;

/// The descriptor privilege level.
const DPL: u64 = 3 << 45;

/// Descriptors that must not be in a table that the processor uses.
const FORBIDDEN: [(&str, u64); 7] = [
    ("a call gate", CALL_GATE),
    ("a task gate", 0x0000_e500_0008_0000),
    ("an interrupt gate", 0x0000_ee00_e008_0000),
    ("a trap gate", 0x0000_ef00_e008_0000),
    ("a task state segment", 0x0000_e900_0000_0067),
    ("a local descriptor table", 0x0000_e200_0000_ffff),
    ("a reserved system type", 0x0000_ea00_0000_ffff),
];

pub fn run(report: &mut Report) {
    let table = Page::new();
    table.protect(KERNEL_READ_ONLY).expect("a read-only page");
    if set_gdt(&[table.mfn().0], 512).is_err() {
        return report.attempt("a descriptor table", false, "cannot be set up");
    }
    let place = table.mfn().address() + 16;
    for (what, descriptor) in FORBIDDEN {
        report.refusal(format!("{what} in my descriptor table"), update_descriptor(place, descriptor));
    }
    for (what, descriptor) in [
        ("data", DATA_SEGMENT & !DPL),
        ("code", 0x00af_9b00_0000_ffff),
        ("conforming code", 0x00af_9f00_0000_ffff),
    ] {
        let result = update_descriptor(place, descriptor);
        // Xen raises the privilege level instead of refusing.
        let level = table.get(2) >> 45 & 3;
        report.attempt(
            format!("a {what} segment of level 0"),
            result.is_err() || level == 3,
            format_args!("{result:?}, level {level}"),
        );
    }
    let root = translation::mfn(linear::root()).address();
    report.refusal("a descriptor written into my root", update_descriptor(root + 300 * 8, DATA_SEGMENT));
    report.refusal("a descriptor across two entries", update_descriptor(place + 4, DATA_SEGMENT));
    if let Err(error) = set_gdt(&[], 0) {
        report.attempt("removing the descriptor table", false, error);
    }
    for (what, descriptor) in FORBIDDEN {
        let table = Page::new();
        table.set(5, descriptor);
        table.protect(KERNEL_READ_ONLY).expect("a read-only page");
        report.refusal(format!("a descriptor table with {what}"), set_gdt(&[table.mfn().0], 512));
    }
    let frames = [translation::mfn(linear::root()).0];
    let root_as_table = hypercall(HypercallNumber::SET_GDT, [frames.as_ptr() as u64, 512, 0, 0, 0]);
    report.refusal("my root as a descriptor table", root_as_table);
}
