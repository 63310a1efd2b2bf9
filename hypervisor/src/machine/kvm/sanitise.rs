//! What a guest may have chosen, made harmless. This file is a security boundary of its own: whatever stands in a
//! [`Context`], what leaves here is a state of CPL3 that the CPU accepts (`tests/machine`, "random contexts").

use super::super::{Context, DebugRegisters};
use super::descriptors;
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, is_canonical};
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::rflags;

/// **The** check of everything that reaches `iretq` and the segment registers. Whatever a guest put into its
/// context, what is left is a state of CPL3 that the CPU accepts; false where RIP cannot be made one.
pub fn sanitise(context: &mut Context) -> bool {
    let registers = &mut context.registers;
    registers.rflags = registers.rflags & (rflags::USER_MASK | rflags::RF) | rflags::RESERVED1 | rflags::IF;
    // NT makes `iretq` itself fault.
    registers.rflags &= !rflags::NT;
    if !descriptors::is_ring3_code(context, context.cs) {
        context.cs = FLAT_RING3_CS64;
    }
    if !descriptors::is_ring3_stack(context, context.ss) {
        context.ss = FLAT_RING3_SS64;
    }
    for base in [&mut context.fs_base, &mut context.gs_base] {
        if !is_canonical(*base) {
            *base = 0;
        }
    }
    sanitise_breakpoints(&mut context.debug);
    is_canonical(context.registers.rip)
}

/// A breakpoint that code at CPL0 could meet would trap there: none is left in the hypervisor's addresses, none for
/// I/O, and none on the debug registers themselves. What is left over in the upper bits would be refused by KVM.
fn sanitise_breakpoints(debug: &mut DebugRegisters) {
    const GENERAL_DETECT: u64 = 1 << 13;
    debug.status &= 0xffff_ffff;
    debug.control = debug.control & 0xffff_ffff & !GENERAL_DETECT | DebugRegisters::CONTROL_AT_REST;
    for (n, address) in debug.addresses.iter_mut().enumerate() {
        let for_io = debug.control >> (16 + 4 * n) & 3 == 2;
        let hypervisors = (HYPERVISOR_VIRT_START..HYPERVISOR_VIRT_END).contains(address);
        if for_io || hypervisors || !is_canonical(*address) {
            *address = 0;
            debug.control &= !(3 << (2 * n));
        }
    }
}

/// Software KVM shows the host's selectors at CPL3; these are the same segments.
pub fn visible_selector(selector: u16) -> u16 {
    match selector {
        0x33 => FLAT_RING3_CS64,
        0x23 => FLAT_RING3_CS32,
        0x2b => FLAT_RING3_SS64,
        other => other,
    }
}
