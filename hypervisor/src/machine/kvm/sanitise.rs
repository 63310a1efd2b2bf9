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

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::Mfn;

    const CODE: u64 = 0x00af_fb00_0000_ffff;
    const DATA: u64 = 0x00cf_f300_0000_ffff;
    /// What is read of code, and written of data.
    const OPEN: u64 = 1 << 41;
    const NOT_SYSTEM: u64 = 1 << 44;
    const DPL: u64 = 3 << 45;
    const PRESENT: u64 = 1 << 47;
    /// Entry 1 of the guest's part of the GDT.
    const OWN: u16 = 1 << 3 | 3;

    fn context() -> Context {
        Context::new(1, Mfn(9), 0x1000)
    }

    /// Which of code, stack and data the guest's own descriptor may be.
    fn uses(descriptor: u64) -> [bool; 3] {
        let mut context = context();
        context.descriptors = vec![0, descriptor];
        (context.cs, context.ss) = (OWN, OWN);
        assert!(sanitise(&mut context));
        let data = descriptors::data_segment(&context, OWN).unusable == 0;
        [context.cs == OWN, context.ss == OWN, data]
    }

    #[test]
    fn segments_are_those_of_cpl3() {
        assert_eq!(uses(CODE), [true, false, true]);
        assert_eq!(uses(CODE & !OPEN), [true, false, false]);
        assert_eq!(uses(DATA), [false, true, true]);
        assert_eq!(uses(DATA & !OPEN), [false, false, true]);
        for descriptor in [CODE, DATA] {
            for missing in [DPL, 1 << 45, 1 << 46, NOT_SYSTEM, PRESENT] {
                assert_eq!(uses(descriptor & !missing), [false; 3], "{descriptor:#x} without {missing:#x}");
            }
        }
    }

    #[test]
    fn selectors_of_nothing_and_of_the_stub_become_flat_ones() {
        for selector in [0, 3, OWN & !3, OWN | 4, 0xe008, 0xe00b, 0xe010, 0xe013, 0xe040, 0xffff] {
            let mut context = context();
            (context.cs, context.ss) = (selector, selector);
            assert!(sanitise(&mut context));
            assert_eq!((context.cs, context.ss), (FLAT_RING3_CS64, FLAT_RING3_SS64), "{selector:#x}");
        }
    }

    #[test]
    fn flags_bases_and_rip_are_what_iretq_and_cpl3_can_have() {
        let mut context = context();
        context.registers.rflags = !0;
        (context.fs_base, context.gs_base) = (1 << 47, 1 << 63);
        assert!(sanitise(&mut context));
        let allowed = rflags::USER_MASK & !rflags::NT | rflags::RF | rflags::RESERVED1 | rflags::IF;
        assert_eq!((context.registers.rflags, context.fs_base, context.gs_base), (allowed, 0, 0));
        context.registers.rflags = 0;
        assert!(sanitise(&mut context));
        assert_eq!(context.registers.rflags, rflags::RESERVED1 | rflags::IF);
        for (rip, fits) in [(1 << 47, false), (1 << 63, false), ((1 << 47) - 1, true), (!0, true)] {
            context.registers.rip = rip;
            assert_eq!(sanitise(&mut context), fits, "{rip:#x}");
        }
    }
}
