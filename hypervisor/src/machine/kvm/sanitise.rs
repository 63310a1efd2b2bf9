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
        let has_no_place = hypervisors || !is_canonical(*address);
        if has_no_place {
            *address = 0;
        }
        if for_io || has_no_place {
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

    /// DR7 with breakpoint `n` armed locally and globally, of that kind, four bytes long.
    const fn armed(n: usize, kind: u64) -> u64 {
        DebugRegisters::CONTROL_AT_REST | 3 << (2 * n) | (kind | 0b1100) << (16 + 4 * n)
    }

    /// What is left of breakpoint `n` at `address`, beside three of the guest's own, which stay.
    fn breakpoint(n: usize, address: u64, kind: u64) -> DebugRegisters {
        let mut context = context();
        context.debug.addresses = [0x1000, 0x2000, 0x3000, 0x4000];
        let others = (0..4).filter(|&other| other != n).map(|other| armed(other, 1));
        let others = others.fold(DebugRegisters::CONTROL_AT_REST, |all, one| all | one);
        context.debug.addresses[n] = address;
        context.debug.control = others | armed(n, kind);
        let asked = context.debug;
        assert!(sanitise(&mut context));
        for other in (0..4).filter(|&other| other != n) {
            assert_eq!(context.debug.addresses[other], asked.addresses[other], "of breakpoint {other}");
        }
        assert_eq!(context.debug.control & others, others, "the others are armed");
        context.debug
    }

    /// A breakpoint at the hypervisor's addresses, for I/O, or on the debug registers themselves would trap at CPL0.
    #[test]
    fn no_breakpoint_can_be_met_at_cpl0() {
        let is_armed = |debug: DebugRegisters, n: usize| debug.control >> (2 * n) & 3 != 0;
        let (start, end) = (HYPERVISOR_VIRT_START, HYPERVISOR_VIRT_END);
        for n in 0..4 {
            for kind in [0, 1, 3] {
                for address in [start, start + 0x1000, end - 1, 1 << 47, 1 << 63] {
                    let debug = breakpoint(n, address, kind);
                    assert!(!is_armed(debug, n) && debug.addresses[n] == 0, "{n} {kind} {address:#x}");
                }
                for address in [0, 0x5000, (1 << 47) - 1, end, u64::MAX] {
                    let debug = breakpoint(n, address, kind);
                    assert!(is_armed(debug, n) && debug.addresses[n] == address, "{n} {kind} {address:#x}");
                }
            }
            assert!(!is_armed(breakpoint(n, 0x5000, 2), n), "{n} is for I/O");
        }
    }

    #[test]
    fn debug_registers_hold_nothing_that_is_refused_or_traps_their_use() {
        let mut context = context();
        (context.debug.status, context.debug.control) = (!0, 0x1111_ffff_ffff | 1 << 63);
        assert!(sanitise(&mut context));
        assert_eq!(context.debug.status, 0xffff_ffff);
        assert_eq!(context.debug.control >> 32, 0);
        assert_eq!(context.debug.control & 1 << 13, 0, "general detect");
        context.debug.control = 0;
        assert!(sanitise(&mut context));
        assert_eq!(context.debug.control, DebugRegisters::CONTROL_AT_REST);
    }
}
