//! Returns by `iret` to places and privileges that must not be reached.

use alloc::format;

use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::rflags;

use super::report::Report;
use super::{Hex, hypervisor_addresses};
use crate::arch::trap::Frame;
use crate::arch::trap::returns::guarded_return;
use crate::memory::{KERNEL_CODE, linear};
use crate::selftest::laboratory::{Page, code};
use crate::user::process::{self, Outcome};
use crate::user::program;

const CS: u64 = FLAT_RING3_CS64 as u64;
const SS: u64 = FLAT_RING3_SS64 as u64;
/// Selectors of Xen's own code and stack, which the privilege level 0 of a frame must not reach.
const RING_0_CS: u64 = 0xe008;
const RING_0_SS: u64 = 0xe010;

pub async fn run(report: &mut Report) {
    kernel_mode(report);
    for (what, change) in USER_FRAMES {
        report_user(report, what, *change).await;
    }
    flags(report).await;
}

/// A frame of level 0 to 2 returns to kernel mode: in ring 3 all the same.
fn kernel_mode(report: &mut Report) {
    let page = Page::new();
    linear::store(page.pfn(), code::ANSWER);
    page.protect(KERNEL_CODE).expect("an executable page");
    let good = Frame { rip: page.address(), cs: CS & !3, ss: SS, rflags: rflags::RESERVED1, ..Frame::ZERO };
    let places = hypervisor_addresses().chain([1 << 63, 0x0000_8000_0000_0000]);
    report.everywhere(
        "a return to kernel mode at",
        places.map(|address| (Hex(address), guarded_return(&Frame { rip: address, ..good }))),
    );
    for (what, cs, ss) in [
        ("Xen's code segment", RING_0_CS, SS),
        ("a null code segment", 0, SS),
        ("a code segment beyond the table", 0xfff8, SS),
        ("a data segment as code", u64::from(FLAT_RING3_SS64) & !3, SS),
        ("Xen's stack segment", CS & !3, RING_0_SS),
        ("a stack segment beyond the table", CS & !3, 0xfff8),
    ] {
        let result = guarded_return(&Frame { cs, ss, ..good });
        // Xen corrects a selector's level and thereby some of these: then the code runs in ring 3.
        match result {
            Ok(42) => {
                report.attempt(format!("a return with {what}"), in_ring_3(), "corrected, runs in ring 3")
            }
            other => report.refusal(format!("a return with {what}"), other),
        }
    }
}

/// Whether kernel code is still kept from privileged instructions.
fn in_ring_3() -> bool {
    crate::selftest::laboratory::run(code::HALT, 0, 0).is_err()
}

type Change = fn(&mut Frame);

/// Frames for user mode that cannot be resumed.
const USER_FRAMES: &[(&str, Change)] = &[
    ("a non-canonical instruction pointer", |frame| frame.rip = 1 << 63),
    ("the first non-canonical instruction pointer", |frame| frame.rip = 1 << 47),
    ("an instruction pointer in the hypervisor", |frame| frame.rip = 0xffff_82d0_4020_0000),
    ("a null code segment", |frame| frame.cs = 3),
    ("Xen's code segment at level 3", |frame| frame.cs = RING_0_CS | 3),
    ("a code segment beyond the table", |frame| frame.cs = 0xfffb),
    ("a stack segment as code", |frame| frame.cs = 0xe02b),
    ("Xen's stack segment", |frame| frame.ss = RING_0_SS | 3),
    ("a stack segment beyond the table", |frame| frame.ss = 0xfffb),
    ("a code segment as stack", |frame| frame.ss = 0xe033),
];

async fn report_user(report: &mut Report, what: &str, change: Change) {
    let what = format!("user mode with {what}");
    match run_program("hello", change).await {
        Some(Outcome::Faulted(fault)) => report.attempt(what, true, fault.description),
        Some(outcome) => report.attempt(what, false, outcome),
        None => report.attempt(what, false, "cannot be set up"),
    }
}

/// Flags that would give user mode ports, or leave protected mode.
async fn flags(report: &mut Report) {
    let forbidden = rflags::IOPL | rflags::VM;
    for (what, flag) in [("I/O privilege", rflags::IOPL), ("virtual-8086 mode", rflags::VM)] {
        let changed: Change = if flag == rflags::VM {
            |frame| frame.rflags |= rflags::VM
        } else {
            |frame| frame.rflags |= rflags::IOPL
        };
        let what = format!("user mode with {what}");
        match run_program("flags", changed).await {
            Some(Outcome::Exited(flags)) => {
                report.attempt(what, flags & forbidden == 0, format_args!("its flags are {flags:#x}"));
            }
            Some(Outcome::Faulted(fault)) => report.attempt(what, true, fault.description),
            _ => report.attempt(what, false, "cannot be set up"),
        }
    }
}

async fn run_program(name: &str, change: Change) -> Option<Outcome> {
    let process = process::start_changed(program::find(name)?, 0, true, change).ok()?;
    Some(process.outcome().await)
}
