//! Calls that need little more than the right answer.

use pv_abi::callback::{CallbackFlags, CallbackOp, CallbackRegister, CallbackType};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::memory::{MemoryOp, MemoryReservation};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use pv_abi::physdev::{PhysdevOp, SetIopl};
use pv_abi::segment::FLAT_RING3_CS64;
use pv_abi::trap::TrapInfo;
use pv_abi::{DomId, Errno};
use zerocopy::FromZeros;

use super::laboratory::Page;
use super::mappings::mmuext_op;
use super::report::Report;
use super::{WILD, hypercall};
use crate::arch::trap;

pub fn run(report: &mut Report) {
    debug_registers(report);
    entries(report);
    privileges(report);
    memory(report);
    for command in [MmuExtCommand::TLB_FLUSH_MULTI, MmuExtCommand::INVLPG_MULTI] {
        let flush = MmuExtOp { arg2: WILD, ..MmuExtOp::new(command, 0) };
        report.refused("a flush with a mask at a wild address", mmuext_op(&[flush]).0, Errno::EINVAL);
    }
}

fn debug_registers(report: &mut Report) {
    let set = |register, value| hypercall(N::SET_DEBUGREG, [register, value, 0, 0, 0]);
    let get = |register| hypercall(N::GET_DEBUGREG, [register, 0, 0, 0, 0]);
    let page = Page::new();
    for register in 0..4 {
        report.done("setting a breakpoint's address", set(register, page.address()));
        // An address in the upper half has its highest bits set, and is no error number.
        report.equal("the address", get(register), Ok(page.address()));
        report.done("setting it to 0", set(register, 0));
    }
    for (register, at_rest) in [(6, 0xffff_0ff0), (7, 0x400)] {
        report.done("setting a debug register to 0", set(register, 0));
        report.equal("its bits that are always set", get(register), Ok(at_rest));
    }
    report.done("arming a breakpoint", set(7, 1));
    report.equal("the control register", get(7), Ok(0x401));
    report.done("disarming it", set(7, 0));
    let hypervisors = pv_abi::address::HYPERVISOR_VIRT_START;
    report.refused("a breakpoint in the hypervisor", set(0, hypervisors), Errno::EPERM);
    report.refused("general detect", set(7, 1 << 13), Errno::EPERM);
    report.refused("an unknown debug register", set(8, 0), Errno::ENODEV);
    report.refused("reading an unknown debug register", get(8), Errno::ENODEV);
}

fn entries(report: &mut Report) {
    let entry = TrapInfo { vector: 0x90, flags: 7, cs: FLAT_RING3_CS64, padding: 0, address: 1 << 20 };
    let set = |table: &[TrapInfo]| hypercall(N::SET_TRAP_TABLE, [table.as_ptr() as u64, 0, 0, 0, 0]);
    report.done("adding one vector to the trap table", set(&[entry, TrapInfo::default()]));
    let wild = TrapInfo { address: 1 << 63, ..entry };
    let bad = set(&[wild, TrapInfo::default()]);
    report.refused("a handler at a non-canonical address", bad, Errno::EINVAL);
    for kind in [CallbackType::SYSENTER, CallbackType::SYSCALL32] {
        let flags = CallbackFlags::MASK_EVENTS.bits();
        let callback = CallbackRegister { kind, flags, padding: 0, address: 1 << 20 };
        let args = [CallbackOp::REGISTER.0, &raw const callback as u64, 0, 0, 0];
        report.done(kind.name().unwrap_or("a callback"), hypercall(N::CALLBACK_OP, args));
    }
    let bad = hypercall(N::SET_CALLBACKS, [1 << 63, 0, 0, 0, 0]);
    report.done("set_callbacks with a non-canonical address, which is left out", bad);
    trap::init();
}

fn privileges(report: &mut Report) {
    let set_iopl = |iopl| {
        let argument = SetIopl { iopl };
        hypercall(N::PHYSDEV_OP, [PhysdevOp::SET_IOPL.0, &raw const argument as u64, 0, 0, 0])
    };
    report.done("an I/O privilege level", set_iopl(1));
    report.done("none", set_iopl(0));
    report.refused("one that there is not", set_iopl(4), Errno::EINVAL);
    const ARCHITECTURAL_IOPL: u64 = 4;
    for (what, command) in [("an assist switched on", 0), ("and off", 1)] {
        report.done(what, hypercall(N::VM_ASSIST, [command, ARCHITECTURAL_IOPL, 0, 0, 0]));
    }
    report.refused("an unknown assist", hypercall(N::VM_ASSIST, [0, 63, 0, 0, 0]), Errno::EINVAL);
}

fn memory(report: &mut Report) {
    let change = |op: MemoryOp, extents: &mut [u64]| {
        let mut request = MemoryReservation::new_zeroed();
        (request.extent_start, request.nr_extents) = (extents.as_mut_ptr() as u64, extents.len() as u64);
        request.domid = DomId::SELF;
        hypercall(N::MEMORY_OP, [op.0, &raw const request as u64, 0, 0, 0])
    };
    report.equal("no page more", change(MemoryOp::INCREASE_RESERVATION, &mut []), Ok(0));
    report.equal("no page less", change(MemoryOp::DECREASE_RESERVATION, &mut []), Ok(0));
    let wild = hypercall(N::MEMORY_OP, [MemoryOp::DECREASE_RESERVATION.0, WILD, 0, 0, 0]);
    report.equal("pages given back at a wild address", wild, Ok(0));
    let foreign = change(MemoryOp::DECREASE_RESERVATION, &mut [u64::MAX >> 16]);
    report.equal("a page given back that there is not", foreign, Ok(0));
}
