//! Frames, modes and upcalls, looked at in a guest's memory.

use super::resume::prepare;
use super::*;
use crate::testing::{BASE, Guest, STACK, USER_BASE, World, page};
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::{IretContext, IretFlags, TrapInfo, rflags};

const HANDLER: u64 = BASE + 0x500;
const KERNEL_STACK: u64 = BASE + 20 * 4096;

/// A guest whose kernel has handlers for everything, and a user mode.
fn guest(world: &World) -> Guest {
    let guest = world.guest();
    world.on_vcpu(&guest, |handle, vcpu| {
        let domain = guest.domain.id();
        let budget = &mut Budget::unlimited();
        let mmu = &world.services.mmu;
        let user = Some(guest.user_root);
        assert_eq!(
            mmu.new_user_baseptr(domain, &mut vcpu.roots, user, budget).unwrap(),
            crate::paging::Progress::Done
        );
        for vector in 0..=255 {
            let flags = if vector == 3 { 3 } else { TrapInfo::MASKS_EVENTS };
            let address = HANDLER + u64::from(vector) * 16;
            vcpu.traps.set(TrapInfo { vector, flags, cs: FLAT_RING3_CS64, padding: 0, address });
        }
        let callback = |offset, masks_events| Some(Callback { address: BASE + offset, masks_events });
        let (event, syscall) = (callback(0x100, true), callback(0x300, false));
        vcpu.callbacks = Callbacks { event, syscall, ..Callbacks::default() };
        vcpu.kernel_stack = KERNEL_STACK;
        handle.info().set_masked(false);
    });
    guest
}

fn set(vcpu: &mut Vcpu, rip: u64, rsp: u64, flags: u64) {
    let registers = &mut vcpu.context.registers;
    (registers.rip, registers.rsp, registers.rflags) = (rip, rsp, flags);
    (registers.rcx, registers.r11) = (0xc, 0x11);
}

fn to_user(vcpu: &mut Vcpu) {
    assert!(vcpu.enter_user());
    set(vcpu, USER_BASE + 0x10, USER_BASE + 0x1000, 0x202);
}

#[test]
fn a_trap_in_kernel_mode_pushes_at_the_stack_pointer() {
    let world = World::new();
    let guest = guest(&world);
    let pointer = world.on_vcpu(&guest, |handle, vcpu| {
        let flags = 0x202 | rflags::TF | rflags::DF | rflags::AC | rflags::NT;
        set(vcpu, BASE + 0x10, STACK - 3, flags);
        bounce_trap(vcpu, handle.info(), &world.services.mmu, 14, 0b111, 0xdead).unwrap();
        let registers = vcpu.context.registers;
        assert_eq!(registers.rip, HANDLER + 14 * 16);
        assert_eq!(registers.rflags, 0x202 | rflags::DF, "IF set; TF, NT, AC clear; DF kept");
        assert_eq!(vcpu.context.cs, FLAT_RING3_CS64);
        assert!(handle.info().masked(), "the table says that this handler masks");
        registers.rsp
    });
    assert_eq!(pointer, ((STACK - 3) & !15) - 64);
    let frame: [u64; 8] = world.peek(&guest, pointer);
    let flags = 0x202 | rflags::TF | rflags::DF | rflags::AC | rflags::NT;
    assert_eq!(frame, [0xc, 0x11, 0b011, BASE + 0x10, 0xe030, flags, STACK - 3, 0xe02b], "U is clear");
    let mut cr2 = [0; 8];
    world.machine.memory.read(guest.domain.shared().frame(), 16, &mut cr2).unwrap();
    assert_eq!(u64::from_le_bytes(cr2), 0xdead);
    world.on_vcpu(&guest, |_, vcpu| vcpu.release(&world.services.mmu));
}

#[test]
fn a_trap_from_user_mode_uses_the_kernel_stack() {
    let world = World::new();
    let guest = guest(&world);
    let pointer = world.on_vcpu(&guest, |handle, vcpu| {
        (vcpu.context.gs_base, vcpu.other_gs_base) = (0x1000, 0x2000);
        to_user(vcpu);
        assert_eq!((vcpu.context.gs_base, vcpu.context.root.mfn()), (0x2000, guest.user_root));
        handle.info().set_masked(true);
        bounce_trap(vcpu, handle.info(), &world.services.mmu, 13, 0x18, 0).unwrap();
        assert_eq!((vcpu.mode, vcpu.context.root.mfn()), (Mode::Kernel, guest.root));
        assert_eq!((vcpu.context.gs_base, vcpu.other_gs_base), (0x1000, 0x2000));
        vcpu.context.registers.rsp
    });
    assert_eq!(pointer, KERNEL_STACK - 64);
    let frame: [u64; 8] = world.peek(&guest, pointer);
    let (cs, flags) = (0x1_0000_e033, 2);
    assert_eq!(frame, [0xc, 0x11, 0x18, USER_BASE + 0x10, cs, flags, USER_BASE + 0x1000, 0xe02b]);
}

#[test]
fn a_page_fault_of_user_mode_says_so_and_a_breakpoint_has_no_error_code() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        to_user(vcpu);
        bounce_trap(vcpu, handle.info(), &world.services.mmu, 14, 0b010, 0).unwrap();
        assert_eq!(world.peek::<u64>(&guest, KERNEL_STACK - 64 + 16), 0b110);
        to_user(vcpu);
        handle.info().set_masked(false);
        bounce_trap(vcpu, handle.info(), &world.services.mmu, 3, 99, 0).unwrap();
        assert_eq!(vcpu.context.registers.rsp, (KERNEL_STACK - 56) & !7);
        assert!(!handle.info().masked(), "the table says that this handler does not mask");
    });
}

#[test]
fn a_system_call_clears_the_direction_and_shows_flat_selectors() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        to_user(vcpu);
        vcpu.context.cs = 0xe023;
        vcpu.context.registers.rflags |= rflags::DF;
        bounce_user_syscall(vcpu, handle.info(), &world.services.mmu).unwrap();
        let registers = vcpu.context.registers;
        assert_eq!((registers.rip, registers.rflags & rflags::DF), (BASE + 0x300, 0));
        let frame: [u64; 7] = world.peek(&guest, registers.rsp);
        assert_eq!(frame[3], 0xe033);
        assert_eq!(frame[4] & rflags::DF, rflags::DF, "the frame keeps it");
    });
}

#[test]
fn a_32_bit_system_call_goes_to_its_callback_where_there_is_one() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        let (info, mmu) = (handle.info(), &world.services.mmu);
        to_user(vcpu);
        let before = vcpu.context.registers;
        assert!(!bounce_syscall32(vcpu, info, mmu, 2).unwrap(), "not registered");
        assert_eq!((vcpu.context.registers, vcpu.mode), (before, Mode::User));
        vcpu.callbacks.syscall32 = Some(Callback { address: BASE + 0x400, masks_events: true });
        // A code segment of the guest's own: the instruction does not save it.
        vcpu.context.cs = 0x0b;
        vcpu.context.registers.rflags |= rflags::DF;
        assert!(bounce_syscall32(vcpu, info, mmu, 2).unwrap());
        let registers = vcpu.context.registers;
        assert_eq!((registers.rip, registers.rflags & rflags::DF), (BASE + 0x400, 0));
        assert_eq!((vcpu.mode, vcpu.context.cs), (Mode::Kernel, FLAT_RING3_CS64));
        assert!(info.masked());
        let (frame, behind): ([u64; 7], u64) = (world.peek(&guest, registers.rsp), USER_BASE + 0x12);
        let flags = 0x202 | rflags::DF;
        assert_eq!(frame, [behind, flags, behind, 0xe023, flags, USER_BASE + 0x1000, 0xe02b]);
        assert!(!bounce_syscall32(vcpu, info, mmu, 2).unwrap(), "the kernel has no system calls");
    });
}

#[test]
fn sysenter_goes_to_its_callback_with_the_frame_that_xen_writes() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        to_user(vcpu);
        let before = vcpu.context.registers;
        assert!(!bounce_sysenter(vcpu, handle.info(), &world.services.mmu).unwrap(), "not registered");
        assert_eq!((vcpu.context.registers, vcpu.mode), (before, Mode::User));
        vcpu.callbacks.sysenter = Some(Callback { address: BASE + 0x400, masks_events: false });
        assert!(bounce_sysenter(vcpu, handle.info(), &world.services.mmu).unwrap());
        let registers = vcpu.context.registers;
        assert_eq!((registers.rip, vcpu.mode), (BASE + 0x400, Mode::Kernel));
        let frame: [u64; 7] = world.peek(&guest, registers.rsp);
        assert_eq!(frame, [0xc, 0x11, 0, 3, 0x202, 0, 0xe02b]);
        assert!(!bounce_sysenter(vcpu, handle.info(), &world.services.mmu).unwrap(), "the kernel's own");
    });
}

#[test]
fn a_frame_that_cannot_be_written_crashes_the_domain() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        for stack in
            [0, 8, 0x7fff_ffff_f000, 0x8000_0000_0000, pv_abi::address::HYPERVISOR_VIRT_START + 64, !0]
        {
            set(vcpu, BASE, stack, 0x202);
            let failure = bounce_trap(vcpu, handle.info(), &world.services.mmu, 6, 0, 0).unwrap_err();
            assert!(
                matches!(&failure, Failure::Crash(why) if why.contains("cannot be written")),
                "{failure}"
            );
        }
        vcpu.traps.clear();
        set(vcpu, BASE, STACK, 0x202);
        let failure = bounce_trap(vcpu, handle.info(), &world.services.mmu, 6, 0, 0).unwrap_err();
        assert!(failure.to_string().contains("no handler for: INVALID_OPCODE"), "{failure}");
    });
}

fn put_iret(world: &World, guest: &Guest, frame: IretContext) {
    world.poke(guest, page(9), &frame);
    world.on_vcpu(guest, |_, vcpu| vcpu.context.registers.rsp = page(9));
}

fn user_frame() -> IretContext {
    IretContext {
        rax: 1,
        r11: 2,
        rcx: 3,
        flags: 0,
        rip: USER_BASE,
        cs: 0xffff_0001_0000_e033,
        rflags: 0x202 | rflags::IOPL | rflags::VM,
        rsp: USER_BASE + 0x800,
        ss: 0xe02b,
    }
}

#[test]
fn iret_to_user_mode_and_back_into_the_kernel() {
    let world = World::new();
    let guest = guest(&world);
    put_iret(&world, &guest, user_frame());
    world.on_vcpu(&guest, |handle, vcpu| {
        handle.info().set_masked(true);
        iret(vcpu, handle.info(), &world.services.mmu).unwrap();
        let registers = vcpu.context.registers;
        assert_eq!((vcpu.mode, vcpu.context.root.mfn()), (Mode::User, guest.user_root));
        assert_eq!((registers.rax, registers.rcx, registers.r11), (1, 3, 2));
        assert_eq!((registers.rip, registers.rflags), (USER_BASE, 0x202));
        assert!(!handle.info().masked(), "IF in the frame unmasks");
        vcpu.enter_kernel();
    });
    let kernel = IretContext { cs: 0xe030, rip: BASE, rflags: 2, rsp: STACK, ..user_frame() };
    put_iret(&world, &guest, IretContext { flags: IretFlags::IN_SYSCALL.bits(), ..kernel });
    world.on_vcpu(&guest, |handle, vcpu| {
        iret(vcpu, handle.info(), &world.services.mmu).unwrap();
        assert_eq!((vcpu.mode, vcpu.context.cs), (Mode::Kernel, FLAT_RING3_CS64));
        assert_eq!((vcpu.context.registers.rcx, vcpu.context.registers.r11), (BASE, 0x202));
        assert!(handle.info().masked());
    });
}

/// Which mode is meant says the privilege level alone: the kernel's own tables are never open to a program.
#[test]
fn iret_to_user_mode_by_any_selector() {
    let world = World::new();
    let guest = guest(&world);
    for cs in [3, 0x1b, 0xe023, 0xe02b, 0xffff] {
        put_iret(&world, &guest, IretContext { cs, ..user_frame() });
        world.on_vcpu(&guest, |handle, vcpu| {
            iret(vcpu, handle.info(), &world.services.mmu).unwrap();
            assert_eq!((vcpu.mode, vcpu.context.root.mfn()), (Mode::User, guest.user_root), "{cs:#x}");
            vcpu.enter_kernel();
        });
    }
}

#[test]
fn iret_without_a_user_root_or_a_readable_frame_crashes_the_domain() {
    let world = World::new();
    let guest = world.guest();
    put_iret(&world, &guest, user_frame());
    world.on_vcpu(&guest, |handle, vcpu| {
        let failure = iret(vcpu, handle.info(), &world.services.mmu).unwrap_err();
        assert!(failure.to_string().contains("no root table"), "{failure}");
        vcpu.context.registers.rsp = BASE - 8;
        let failure = iret(vcpu, handle.info(), &world.services.mmu).unwrap_err();
        assert!(failure.to_string().contains("cannot read its frame"), "{failure}");
    });
}

#[test]
fn the_virtual_io_privilege_is_shown_where_the_kernel_asked_for_it() {
    let world = World::new();
    let guest = guest(&world);
    put_iret(&world, &guest, user_frame());
    world.on_vcpu(&guest, |handle, vcpu| {
        vcpu.assists.store(1 << 4, Ordering::Relaxed);
        iret(vcpu, handle.info(), &world.services.mmu).unwrap();
        assert_eq!(vcpu.iopl, 3);
        assert_eq!(vcpu.context.registers.rflags & rflags::IOPL, 0, "the real one stays 0");
        bounce_user_syscall(vcpu, handle.info(), &world.services.mmu).unwrap();
        let saved: u64 = world.peek(&guest, vcpu.context.registers.rsp + 32);
        assert_eq!(saved & rflags::IOPL, rflags::IOPL);
    });
}

#[test]
fn a_pending_event_is_delivered_once_and_masks_further_ones() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        let mmu = &world.services.mmu;
        to_user(vcpu);
        handle.info().mark_pending(0);
        assert_eq!(prepare(vcpu, handle.info(), mmu).unwrap().upcalls, 1);
        assert_eq!((vcpu.mode, vcpu.context.registers.rip), (Mode::Kernel, BASE + 0x100));
        let frame: [u64; 7] = world.peek(&guest, vcpu.context.registers.rsp);
        assert_eq!((frame[3] >> 32, frame[4] & rflags::IF), (0, rflags::IF), "unmasked before");
        assert!(handle.info().masked());
        assert_eq!(prepare(vcpu, handle.info(), mmu).unwrap().upcalls, 0);
        handle.info().set_masked(false);
        assert_eq!(prepare(vcpu, handle.info(), mmu).unwrap().upcalls, 1, "it nests once unmasked");
    });
}

#[test]
fn what_cannot_be_resumed_goes_to_the_failsafe_callback() {
    let world = World::new();
    let guest = guest(&world);
    let mmu = &world.services.mmu;
    type Spoil = fn(&mut Context);
    let bad: [(Spoil, u64); 5] = [
        (|context| context.registers.rip = 0x8000_0000_0000, 0),
        (|context| context.cs = 0x10, 0x10),
        (|context| context.cs = FLAT_RING3_SS64, (FLAT_RING3_SS64 & !3).into()),
        (|context| context.ss = 0, 0),
        (|context| context.ss = 0x57, 0x54),
    ];
    for (spoil, error_code) in bad {
        world.on_vcpu(&guest, |handle, vcpu| {
            to_user(vcpu);
            spoil(&mut vcpu.context);
            let (rip, ss) = (vcpu.context.registers.rip, u64::from(vcpu.context.ss | 3));
            prepare(vcpu, handle.info(), mmu).unwrap();
            assert_eq!(vcpu.context.registers.rip, HANDLER + 13 * 16, "no failsafe callback: #GP");
            let frame: [u64; 3] = world.peek(&guest, vcpu.context.registers.rsp);
            assert_eq!(frame[2], error_code, "which selector");
            handle.info().set_masked(false);
            to_user(vcpu);
            spoil(&mut vcpu.context);
            vcpu.context.ds = 0xe02b;
            vcpu.callbacks.failsafe = Some(Callback { address: BASE + 0x200, masks_events: true });
            prepare(vcpu, handle.info(), mmu).unwrap();
            assert_eq!(vcpu.context.registers.rip, BASE + 0x200);
            let frame: [u64; 11] = world.peek(&guest, vcpu.context.registers.rsp);
            assert_eq!((frame[2], frame[6], frame[10]), (0xe02b, rip, ss), "selectors, then the bad frame");
            vcpu.callbacks.failsafe = None;
            handle.info().set_masked(false);
        });
    }
}

#[test]
fn flags_and_bases_are_made_harmless_before_each_entry() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        set(vcpu, BASE, STACK, !0);
        (vcpu.context.fs_base, vcpu.context.gs_base) = (1 << 47, !0 << 46);
        (vcpu.context.ds, vcpu.context.es) = (0x1f, 0xe02b);
        prepare(vcpu, handle.info(), &world.services.mmu).unwrap();
        let bad = rflags::IOPL | rflags::VM | rflags::RF | 0xffff_ffff_ffc0_0000 & !rflags::USER_MASK;
        assert_eq!(vcpu.context.registers.rflags & bad, 0);
        assert_eq!((vcpu.context.fs_base, vcpu.context.gs_base), (0, !0 << 46));
        assert_eq!((vcpu.context.ds, vcpu.context.es), (0, 0));
    });
}

#[test]
fn a_guests_own_code_segment_can_be_resumed_once_its_gdt_has_it() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        to_user(vcpu);
        vcpu.context.descriptors = vec![0, 0, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];
        (vcpu.context.cs, vcpu.context.ss) = (0x1b, 0x13);
        prepare(vcpu, handle.info(), &world.services.mmu).unwrap();
        assert_eq!((vcpu.mode, vcpu.context.cs), (Mode::User, 0x1b));
        for missing in [1 << 47, 3 << 45] {
            // Not present, and the hypervisor's.
            (vcpu.context.cs, vcpu.context.ss) = (0x1b, 0x13);
            vcpu.context.descriptors[3] = 0x00af_fb00_0000_ffff & !missing;
            prepare(vcpu, handle.info(), &world.services.mmu).unwrap();
            assert_eq!(vcpu.mode, Mode::Kernel, "without {missing:#x}");
            to_user(vcpu);
        }
    });
}
