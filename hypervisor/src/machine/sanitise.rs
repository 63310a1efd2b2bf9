//! What a guest may have chosen, made harmless. This file is a security boundary of its own: whatever stands in a
//! [`Context`], what leaves here is a state of CPL3 that the CPU accepts (`tests/machine`, "random contexts").

use super::{Context, DebugRegisters};
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, is_canonical};
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::rflags;
use std::ops::{Deref, DerefMut};

/// A context that a guest can be entered with. [`sanitise`] alone makes one, and machines get no other. What a machine puts
/// there when the guest has run is sanitised before the next entry.
#[derive(Debug)]
pub struct Sanitised<'a>(&'a mut Context);

impl Deref for Sanitised<'_> {
    type Target = Context;
    fn deref(&self) -> &Context {
        self.0
    }
}

impl DerefMut for Sanitised<'_> {
    fn deref_mut(&mut self) -> &mut Context {
        self.0
    }
}

/// **The** check of everything that reaches `iretq` and the segment registers. Whatever a guest put into its context, what is
/// left is a state of CPL3 that the CPU accepts; none where RIP cannot be made one. Selectors that name no data segment of
/// CPL3 count as null, since a failed load cannot be reported at a resume.
pub fn sanitise(context: &mut Context) -> Option<Sanitised<'_>> {
    let registers = &mut context.registers;
    registers.rflags = registers.rflags & (rflags::USER_MASK | rflags::RF) | rflags::RESERVED1 | rflags::IF;
    // NT makes `iretq` itself fault.
    registers.rflags &= !rflags::NT;
    if !is_ring3_code(context, context.cs) {
        context.cs = FLAT_RING3_CS64;
    }
    if !is_ring3_stack(context, context.ss) {
        context.ss = FLAT_RING3_SS64;
    }
    let asked = [context.ds, context.es, context.fs, context.gs];
    let kept = asked.map(|selector| if is_ring3_data(context, selector) { selector } else { 0 });
    if kept != asked {
        [context.ds, context.es, context.fs, context.gs] = kept;
        context.segments_changed = true;
    }
    for base in [&mut context.fs_base, &mut context.gs_base] {
        if !is_canonical(*base) {
            *base = 0;
        }
    }
    sanitise_breakpoints(&mut context.debug);
    is_canonical(context.registers.rip).then_some(Sanitised(context))
}

/// Whether `selector` names 64-bit or 32-bit code for CPL3.
fn is_ring3_code(context: &Context, selector: u16) -> bool {
    selector & 7 == 3
        && context.descriptor(selector).is_some_and(|descriptor| descriptor >> 40 & 0xf8 == 0xf8)
}

/// Whether `selector` names a writable stack for CPL3.
fn is_ring3_stack(context: &Context, selector: u16) -> bool {
    selector & 7 == 3
        && context.descriptor(selector).is_some_and(|descriptor| descriptor >> 40 & 0xfa == 0xf2)
}

/// Whether `selector` names data for CPL3, or code that can be read.
fn is_ring3_data(context: &Context, selector: u16) -> bool {
    let is_data = |descriptor: u64| {
        // Present, DPL 3, data, or code that can be read.
        let access = descriptor >> 40 & 0xff;
        access & 0xf0 == 0xf0 && (access & 0x08 == 0 || access & 0x0a == 0x0a)
    };
    selector & 4 == 0 && context.descriptor(selector).is_some_and(is_data)
}

/// A breakpoint that code at CPL0 could meet would trap there: none is left in the hypervisor's addresses, none for
/// I/O, and none on the debug registers themselves. What is left over in the upper bits would be refused by KVM.
fn sanitise_breakpoints(debug: &mut DebugRegisters) {
    const GENERAL_DETECT: u64 = 1 << 13;
    debug.status &= 0xffff_ffff;
    debug.control = debug.control & 0xffff_ffff & !GENERAL_DETECT | DebugRegisters::CONTROL_AT_REST;
    // Where DR7 says what is armed, and of which kind.
    for (address, (armed, kind)) in debug.addresses.iter_mut().zip([(0, 16), (2, 20), (4, 24), (6, 28)]) {
        let for_io = debug.control >> kind & 3 == 2;
        let hypervisors = (HYPERVISOR_VIRT_START..HYPERVISOR_VIRT_END).contains(address);
        let has_no_place = hypervisors || !is_canonical(*address);
        if has_no_place {
            *address = 0;
        }
        if for_io || has_no_place {
            debug.control &= !(3 << armed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Root;
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
        Context::new(1, Root::of_valid_l4(Mfn(9)), 0x1000)
    }

    /// Which of code, stack and data the guest's own descriptor may be.
    fn uses(descriptor: u64) -> [bool; 3] {
        let mut context = context();
        context.descriptors = vec![0, descriptor];
        (context.cs, context.ss) = (OWN, OWN);
        (context.ds, context.es, context.fs, context.gs) = (OWN, OWN, OWN, OWN);
        assert!(sanitise(&mut context).is_some());
        let [data, others @ ..] = [context.ds, context.es, context.fs, context.gs];
        assert!(others == [data; 3] && (data == OWN || data == 0), "{data:#x} {others:x?}");
        [context.cs == OWN, context.ss == OWN, data == OWN]
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
            for descriptor in [CODE, DATA] {
                let mut context = context();
                context.descriptors = vec![0, descriptor];
                (context.cs, context.ss) = (selector, selector);
                assert!(sanitise(&mut context).is_some());
                assert_eq!((context.cs, context.ss), (FLAT_RING3_CS64, FLAT_RING3_SS64), "{selector:#x}");
            }
        }
    }

    /// A selector of data may have any RPL; it must not be of a local table, nor of the hypervisor's own.
    #[test]
    fn data_selectors_that_name_no_data_are_null() {
        let names_data = |selector: u16| selector & 4 == 0 && selector & !3 != 0;
        for selector in [0, 3, OWN, OWN & !3, OWN | 4, 0xe008, 0xe010, 0xe02b, 0xe028, 0xe02f, 0xe040, 0xffff]
        {
            let is_known = selector & !7 == OWN & !7 || selector & !7 == FLAT_RING3_SS64 & !7;
            let kept = if is_known && names_data(selector) { selector } else { 0 };
            for n in 0..4 {
                let mut context = context();
                (context.descriptors, context.segments_changed) = (vec![0, DATA], false);
                let mut wanted = [0; 4];
                wanted[n] = selector;
                [context.ds, context.es, context.fs, context.gs] = wanted;
                assert!(sanitise(&mut context).is_some());
                wanted[n] = kept;
                assert_eq!([context.ds, context.es, context.fs, context.gs], wanted, "{selector:#x}");
                assert_eq!(context.segments_changed, kept != selector, "{selector:#x}");
            }
        }
    }

    #[test]
    fn flags_bases_and_rip_are_what_iretq_and_cpl3_can_have() {
        let mut context = context();
        context.registers.rflags = !0;
        (context.fs_base, context.gs_base) = (1 << 47, 1 << 63);
        assert!(sanitise(&mut context).is_some());
        let allowed = rflags::USER_MASK & !rflags::NT | rflags::RF | rflags::RESERVED1 | rflags::IF;
        assert_eq!((context.registers.rflags, context.fs_base, context.gs_base), (allowed, 0, 0));
        context.registers.rflags = 0;
        assert!(sanitise(&mut context).is_some());
        assert_eq!(context.registers.rflags, rflags::RESERVED1 | rflags::IF);
        for (rip, fits) in [(1 << 47, false), (1 << 63, false), ((1 << 47) - 1, true), (!0, true)] {
            context.registers.rip = rip;
            assert_eq!(sanitise(&mut context).is_some(), fits, "{rip:#x}");
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
        assert!(sanitise(&mut context).is_some());
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
        assert!(sanitise(&mut context).is_some());
        assert_eq!(context.debug.status, 0xffff_ffff);
        assert_eq!(context.debug.control >> 32, 0);
        assert_eq!(context.debug.control & 1 << 13, 0, "general detect");
        context.debug.control = 0;
        assert!(sanitise(&mut context).is_some());
        assert_eq!(context.debug.control, DebugRegisters::CONTROL_AT_REST);
    }
}
