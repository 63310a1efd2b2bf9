//! The `iret` hypercall, from the kernel to itself.

use core::sync::atomic::Ordering;

use pv_abi::trap::{IretFlags, rflags};

use super::report::Report;
use crate::arch::trap::returns::return_to_self;
use crate::{event, shared_info};

pub fn run(report: &mut Report) {
    let registers = return_to_self(0, rflags::RESERVED1);
    report.equal("RAX, RCX and R11 after an iret", registers, [0xa, 0xc, 0xb]);
    let [rax, ..] = return_to_self(IretFlags::IN_SYSCALL.bits(), rflags::RESERVED1);
    report.equal("RAX after an iret in its system call form", rax, 0xa);
    report.equal("the event mask after both", shared_info::upcall_mask().load(Ordering::Relaxed), 1);
    // An event may come in the moment in which the mask is open, and close it.
    let opened = (0..10).any(|_| {
        event::dispatch();
        return_to_self(0, rflags::RESERVED1 | rflags::IF);
        shared_info::upcall_mask().swap(1, Ordering::AcqRel) == 0
    });
    report.check("an iret that sets the interrupt flag", opened, "opens the event mask");
}
