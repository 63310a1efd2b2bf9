//! Instructions in a guest's memory, and what they leave there and in the vCPU.

use super::*;
use crate::machine::{Registers, Root};
use crate::testing::{PAGES, USER_PAGES};
use pv_abi::Mfn;
use pv_abi::address::HYPERVISOR_VIRT_START;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::segment::FLAT_RING3_CS32;
use pv_abi::trap::{PageFaultError, rflags};

const PF: u8 = 14;
const DB: u8 = 1;
/// The first address behind the kernel's memory.
const END: u64 = page(PAGES);
/// Elements that are moved at a time.
const PIECE: u64 = 512;

/// A guest whose kernel has the I/O privilege.
fn privileged_guest(world: &World) -> Guest {
    let guest = guest(world);
    world.on_vcpu(&guest, |_, vcpu| {
        vcpu.iopl = 1;
        vcpu.traps.set(TrapInfo { vector: DB, flags: 0, cs: 0xe033, padding: 0, address: handler(DB) });
    });
    guest
}

/// Where a guest's kernel goes on, its registers, and CR2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct After {
    rip: u64,
    registers: Registers,
    cr2: u64,
}

/// The kernel, its registers changed by `set`, executes `code`, which raises #GP.
fn execute(world: &World, guest: &Guest, code: &[u8], set: impl FnOnce(&mut Registers)) -> After {
    world.on_vcpu(guest, |_, vcpu| set(&mut vcpu.context.registers));
    let rip = raise(world, guest, code, GP, 0);
    world.on_vcpu(guest, |handle, vcpu| After {
        rip,
        registers: vcpu.context.registers,
        cr2: handle.info().cr2(),
    })
}

/// Maps page `number` of the kernel as `entry` says.
fn map(world: &World, guest: &Guest, number: u64, entry: u64) {
    assert_eq!(world.call(guest, 14, &[page(number), entry, 2]), Ok(0));
}

fn user_flags() -> PteFlags {
    PteFlags::PRESENT | PteFlags::USER
}

/// An `outs` of 2^63 bytes: a piece at a time, until there is no memory any more.
#[test]
fn string_io_without_end_is_made_in_pieces() {
    let world = World::new();
    let guest = privileged_guest(&world);
    let count = 1 << 63;
    let mut after = execute(&world, &guest, &[0xf3, 0x6e], |registers| {
        (registers.rcx, registers.rsi) = (count, page(3));
    });
    let pieces = (END - page(3)) / PIECE;
    for done in (1..=pieces).map(|piece| piece * PIECE) {
        let (rip, registers) = (after.rip, after.registers);
        assert_eq!((rip, registers.rcx, registers.rsi), (BASE, count - done, page(3) + done));
        after = execute(&world, &guest, &[0xf3, 0x6e], |_| ());
    }
    assert_eq!((after.rip, after.cr2), (handler(PF), END));
    let frame: [u64; 8] = world.peek(&guest, STACK - 64);
    assert_eq!((frame[2], frame[3]), (0, BASE), "a read by the kernel, at the instruction");
}

#[test]
fn string_input_stores_what_ports_read() {
    let world = World::new();
    let guest = privileged_guest(&world);
    let place = page(3) + 16;
    // From the end of the timer chip's ports on.
    for (code, down, count, stored) in [
        (&[0xf3, 0x6c][..], false, 5, &[0, 0, 0, 0, 0][..]), // rep insb
        (&[0x66, 0x6d], false, 7, &[0, 0xff]),               // insw, which counts nothing
        (&[0xf2, 0x6d], false, 2, &[0, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff]), // repne insd
        (&[0xf3, 0x6d], true, 2, &[0, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff]), // rep insd, downwards
        (&[0xf3, 0x6c], false, 0, &[]),
    ] {
        world.poke(&guest, page(3), &[0x5a_u8; 64]);
        let element = if code.last() == Some(&0x6c) { 1 } else { 4 };
        let lowest = if down { place - 4 } else { place };
        let after = execute(&world, &guest, code, |registers| {
            registers.rflags = if down { 0x202 | rflags::DF } else { 0x202 };
            (registers.rdx, registers.rcx, registers.rdi) = (0x43, count, place);
        });
        assert_eq!(after.rip, BASE + code.len() as u64, "{code:x?}");
        let memory: [u8; 64] = world.peek(&guest, page(3));
        let at = (lowest - page(3)) as usize;
        assert_eq!(&memory[at..at + stored.len()], stored, "{code:x?}");
        let untouched = memory[..at].iter().chain(&memory[at + stored.len()..]);
        assert!(untouched.copied().all(|byte| byte == 0x5a), "{code:x?} {memory:x?}");
        let rep = matches!(code[0], 0xf2 | 0xf3);
        let moved = if down { place - 2 * element } else { place + stored.len() as u64 };
        assert_eq!(
            (after.registers.rdi, after.registers.rcx),
            (moved, if rep { 0 } else { count }),
            "{code:x?}"
        );
    }
}

/// 32-bit addresses and counters leave 32 bits, and FS and GS have bases.
#[test]
fn string_io_has_the_addresses_that_its_prefixes_say() {
    let world = World::new();
    let guest = privileged_guest(&world);
    world.on_vcpu(&guest, |_, vcpu| {
        (vcpu.context.fs_base, vcpu.context.gs_base) = (page(2) - 0x1_0000, page(2) - 0x2_0000);
    });
    for (prefix, index) in [(0x64, 0x1_0000), (0x65, 0x2_0000)] {
        let after = execute(&world, &guest, &[prefix, 0x67, 0xf3, 0x6e], |registers| {
            (registers.rcx, registers.rsi) = (0x7777_0000_0000 | 3, 0x5555_0000_0000 | index);
        });
        let registers = after.registers;
        assert_eq!((after.rip, registers.rcx, registers.rsi), (BASE + 4, 0, index + 3), "{prefix:#x}");
        let unmapped = execute(&world, &guest, &[prefix, 0x6e], |registers| registers.rsi = END);
        assert_ne!(unmapped.rip, BASE + 2, "{prefix:#x}");
    }
}

/// Where the first element cannot be moved nothing is: the page fault names the byte, or the address is no address.
#[test]
fn string_io_faults_where_there_is_no_memory() {
    let world = World::new();
    let guest = privileged_guest(&world);
    map(&world, &guest, 6, Pte::new(guest.l1, user_flags()).0);
    map(&world, &guest, 7, Pte::new(guest.pages[5], user_flags()).0);
    let table = || {
        let marks = (PteFlags::ACCESSED | PteFlags::DIRTY).bits();
        world.peek::<[u64; 512]>(&guest, page(6)).map(|entry| entry & !marks)
    };
    let before = table();
    let write = PageFaultError::WRITE.bits();
    for (code, address, expected) in [
        (&[0x6c][..], END, Some((END, write))),
        (&[0x6e], END, Some((END, 0))),
        (&[0x6d], END - 1, Some((END, write))),
        (&[0x6c], page(6) + 8, Some((page(6) + 8, write))),
        (&[0x6c], page(7), Some((page(7), write))),
        (&[0x6c], HYPERVISOR_VIRT_START, Some((HYPERVISOR_VIRT_START, write))),
        (&[0x6e], HYPERVISOR_VIRT_START + 0x1000, Some((HYPERVISOR_VIRT_START + 0x1000, 0))),
        (&[0x6c], 0, Some((0, write))),
        (&[0x6c], 1 << 47, None),
        (&[0x6e], 1 << 63, None),
    ] {
        let after = execute(&world, &guest, code, |registers| {
            (registers.rsi, registers.rdi) = (address, address);
        });
        let (vector, word) = expected.map_or((GP, 0), |(_, error)| (PF, error));
        let frame: [u64; 8] = world.peek(&guest, STACK - 64);
        assert_eq!((after.rip, frame[2], frame[3]), (handler(vector), word, BASE), "{code:x?} {address:#x}");
        assert_eq!(expected.map(|_| after.cr2), expected.map(|(cr2, _)| cr2), "{code:x?} {address:#x}");
        assert_eq!((after.registers.rsi, after.registers.rdi), (address, address));
    }
    assert_eq!(table(), before, "the table is as it was");
}

/// Elements before the one that faults are moved, counted, and not moved again.
#[test]
fn string_io_faults_at_the_element_that_cannot_be_moved() {
    let world = World::new();
    let guest = privileged_guest(&world);
    let after = execute(&world, &guest, &[0xf3, 0x6c], |registers| {
        (registers.rdx, registers.rcx, registers.rdi) = (0x60, 10, END - 3);
    });
    assert_eq!((after.rip, after.registers.rcx, after.registers.rdi), (BASE, 7, END));
    assert_eq!(world.peek::<[u8; 3]>(&guest, END - 3), [0xff; 3]);
    let after = execute(&world, &guest, &[0xf3, 0x6c], |_| ());
    assert_eq!((after.rip, after.cr2, after.registers.rcx), (handler(PF), END, 7));
}

/// A program that was given the privilege has it over its own memory alone.
#[test]
fn string_io_of_programs_is_in_their_own_memory() {
    let world = World::new();
    let guest = guest(&world);
    let end = USER_BASE + USER_PAGES * 4096;
    world.poke(&guest, page(3), &[0x5a_u8; 8]);
    for (address, expected, cr2) in
        [(USER_BASE + 0x800, USER_BASE + 1, 0), (page(3), handler(PF), page(3)), (end, handler(PF), end)]
    {
        world.machine.memory.write(guest.user_pages[0], 0, &[0x6c]).unwrap();
        let arrived = world.on_vcpu(&guest, |handle, vcpu| {
            vcpu.iopl = 3;
            vcpu.user_for_test(&world.services.mmu, guest.user_root);
            handle.info().set_cr2(0);
            let registers = &mut vcpu.context.registers;
            (registers.rip, registers.rdi, registers.rdx) = (USER_BASE, address, 0x60);
            exception(&world.services, vcpu, handle.info(), Fault { vector: GP, error_code: 0, cr2: 0 })
                .unwrap();
            let at = (vcpu.context.registers.rip, handle.info().cr2());
            vcpu.enter_kernel_for_test();
            at
        });
        assert_eq!(arrived, (expected, cr2), "{address:#x}");
    }
    assert_eq!(world.peek::<[u8; 8]>(&guest, page(3)), [0x5a; 8], "the kernel's memory");
    let mut byte = [0];
    world.machine.memory.read(guest.user_pages[0], 0x800, &mut byte).unwrap();
    assert_eq!(byte, [0xff]);
}

/// A program's own segment of 32-bit or 16-bit code lies at its base, and is decoded for what it is.
#[test]
fn code_of_other_segments_is_where_and_what_they_say() {
    const CODE_32: u64 = 0x00cf_fb00_0000_ffff;
    const CODE_16: u64 = 0x008f_fb00_0000_ffff;
    let base = (USER_BASE & 0xff_ffff) << 16 | (USER_BASE & 0xff00_0000) << 32;
    let world = World::new();
    let guest = guest(&world);
    world.machine.memory.write(guest.user_pages[0], 0x100, &[0xed]).unwrap(); // in eax, dx; in ax, dx
    for (descriptor, offset, rax) in [
        (CODE_32, USER_BASE, 0xffff_ffff),
        (CODE_32 | base, 0, 0xffff_ffff),
        (CODE_32 | base, 1 << 32, 0xffff_ffff),
        (CODE_16 | base, 0, 0x1122_3344_5566_ffff),
    ] {
        world.on_vcpu(&guest, |handle, vcpu| {
            vcpu.iopl = 3;
            vcpu.user_for_test(&world.services.mmu, guest.user_root);
            (vcpu.context.descriptors, vcpu.context.cs) = (vec![0, descriptor], 0xb);
            let registers = &mut vcpu.context.registers;
            (registers.rip, registers.rdx, registers.rax) = (offset + 0x100, 0x60, 0x1122_3344_5566_7788);
            let fault = Fault { vector: GP, error_code: 0, cr2: 0 };
            exception(&world.services, vcpu, handle.info(), fault).unwrap();
            let registers = vcpu.context.registers;
            assert_eq!(
                (registers.rip, registers.rax),
                (offset as u32 as u64 + 0x101, rax),
                "{descriptor:#x}"
            );
            vcpu.enter_kernel_for_test();
        });
    }
}

/// A segment of 32-bit code has a base and a limit, which are not looked at.
#[test]
fn string_io_of_32_bit_code_is_refused() {
    let world = World::new();
    let guest = guest(&world);
    for (code, expected) in [(0xec, USER_BASE + 1), (0x6c, handler(GP)), (0x6e, handler(GP))] {
        world.machine.memory.write(guest.user_pages[0], 0, &[code]).unwrap();
        world.on_vcpu(&guest, |handle, vcpu| {
            vcpu.iopl = 3;
            vcpu.user_for_test(&world.services.mmu, guest.user_root);
            vcpu.context.cs = FLAT_RING3_CS32;
            let registers = &mut vcpu.context.registers;
            (registers.rip, registers.rsi, registers.rdi) = (USER_BASE, USER_BASE, USER_BASE);
            let fault = Fault { vector: GP, error_code: 0, cr2: 0 };
            exception(&world.services, vcpu, handle.info(), fault).unwrap();
            assert_eq!(vcpu.context.registers.rip, expected, "{code:#x}");
            vcpu.enter_kernel_for_test();
        });
    }
}

#[test]
fn a_single_step_over_an_instruction_traps_behind_it() {
    let world = World::new();
    let guest = privileged_guest(&world);
    for (code, rip) in
        [(&[0x0f, 0x06][..], BASE + 2), (b"\x0f\x0bxen\x0f\xa2", BASE + 7), (&[0xf3, 0x6e], BASE)]
    {
        let after = execute(&world, &guest, code, |registers| {
            (registers.rflags, registers.rcx, registers.rsi) = (0x202 | rflags::TF, 5, page(3));
        });
        assert_eq!(after.rip, handler(DB), "{code:x?}");
        let frame: [u64; 7] = world.peek(&guest, STACK - 56);
        assert_eq!((frame[2], frame[4] & rflags::TF), (rip, rflags::TF), "{code:x?}");
        assert_eq!(after.registers.rflags & rflags::TF, 0);
        world.on_vcpu(&guest, |_, vcpu| assert_ne!(vcpu.context.debug.status & 1 << 14, 0, "DR6.BS"));
    }
    // One element, and one trap.
    let registers = world.on_vcpu(&guest, |_, vcpu| vcpu.context.registers);
    assert_eq!((registers.rcx, registers.rsi), (4, page(3) + 1));
}

#[test]
fn an_access_to_a_port_with_a_breakpoint_traps_behind_it() {
    let world = World::new();
    let guest = privileged_guest(&world);
    world.on_vcpu(&guest, |_, vcpu| {
        vcpu.set_cr4(1 << 3);
        vcpu.set_debug_register(1, 0x61).unwrap();
        vcpu.set_debug_register(7, 0x400 | 1 << 2 | 2 << 20).unwrap();
    });
    for (code, port, rip) in [
        (&[0xec][..], 0x61, Some(BASE + 1)), // in al, dx
        (&[0xed], 0x5e, Some(BASE + 1)),     // in eax, dx
        (&[0xe5, 0x60], 0, Some(BASE + 2)),  // in eax, 0x60
        (&[0xee], 0x61, Some(BASE + 1)),     // out dx, al
        (&[0xe6, 0x61], 0, Some(BASE + 2)),  // out 0x61, al
        (&[0xe6, 0x62], 0, None),
        (&[0xec], 0x60, None),
        (&[0xf3, 0x6e], 0x61, Some(BASE)), // rep outsb
        (&[0xf3, 0x6e], 0x62, None),
        (&[0x67, 0xf3, 0x6e], 0x61, None), // rep outsb of ECX, which is 0
    ] {
        world.on_vcpu(&guest, |_, vcpu| vcpu.context.debug.status = 0xffff_0ff0);
        let after = execute(&world, &guest, code, |registers| {
            let count = if code[0] == 0x67 { 1 << 32 } else { 5 };
            (registers.rdx, registers.rcx, registers.rsi) = (port, count, page(3));
        });
        let status = world.on_vcpu(&guest, |_, vcpu| vcpu.context.debug.status);
        match rip {
            Some(rip) => {
                assert_eq!((after.rip, status), (handler(DB), 0xffff_0ff2), "{code:x?} {port:#x}");
                assert_eq!(world.peek::<[u64; 7]>(&guest, STACK - 56)[2], rip, "{code:x?}");
            }
            None => assert_eq!(
                (after.rip, status),
                (BASE + code.len() as u64, 0xffff_0ff0),
                "{code:x?} {port:#x}"
            ),
        }
    }
    let after = execute(&world, &guest, &[0xf3, 0x6e], |registers| {
        (registers.rdx, registers.rcx, registers.rsi) = (0x61, 5, page(3));
    });
    assert_eq!((after.registers.rcx, after.registers.rsi), (4, page(3) + 1), "one element");
}

/// `mov cr3, rbx`: the hypervisor carries it out as a change of the root.
const MOV_CR3: [u8; 3] = [0x0f, 0x22, 0xdb];

fn roots(world: &World, guest: &Guest) -> (Option<Mfn>, Mfn) {
    world.on_vcpu(guest, |_, vcpu| (vcpu.roots.kernel().map(Root::mfn), vcpu.context.root.mfn()))
}

#[test]
fn cr3_takes_root_tables_of_its_domain_only() {
    let world = World::new();
    let (guest, other) = (guest(&world), world.guest());
    let kernel = (Some(guest.root), guest.root);
    for (value, why) in [
        (guest.l1.address(), "a table of another level"),
        (guest.pages[3].address(), "a page that is written"),
        (other.root.address(), "another domain's"),
        (0, "the hypervisor's"),
        (511 << 12, "nobody's"),
        (u64::MAX, "no frame"),
        (1 << 63 | guest.root.address(), "no flush is not offered"),
    ] {
        let after = execute(&world, &guest, &MOV_CR3, |registers| registers.rbx = value);
        assert_eq!((after.rip, roots(&world, &guest)), (handler(GP), kernel), "{why}");
    }
    // Bits about caches mean nothing.
    let value = guest.user_root.address() | 0x18;
    let after = execute(&world, &guest, &MOV_CR3, |registers| registers.rbx = value);
    assert_eq!(after.rip, BASE + 3);
    assert_eq!(roots(&world, &guest), (Some(guest.user_root), guest.user_root));
    world.on_vcpu(&guest, |_, vcpu| assert!(vcpu.context.root_replaced));
}

/// A tree that takes long to validate: the instruction stays where it is until all of it is.
#[test]
fn a_large_root_is_validated_in_pieces() {
    let mut world = World::new();
    let guest = guest(&world);
    let mmu = &world.services.mmu;
    let table = |entries: &mut dyn Iterator<Item = (usize, Mfn)>| {
        let table = mmu.allocate(guest.domain.id()).unwrap();
        mmu.memory().zero(table).unwrap();
        for (index, mfn) in entries {
            mmu.memory().exchange_entry(table, index, Pte::new(mfn, user_flags()), 0).unwrap();
        }
        table
    };
    let leaves: Vec<Mfn> =
        (0..10).map(|_| table(&mut (0..512).map(|index| (index, guest.pages[3])))).collect();
    let l2 = table(&mut leaves.iter().copied().enumerate());
    let l3 = table(&mut [(0, l2)].into_iter());
    let root = table(&mut [(Level::L4.index(BASE) - 1, l3)].into_iter());
    let before = roots(&world, &guest);
    let mut pieces = 0;
    loop {
        let after = execute(&world, &guest, &MOV_CR3, |registers| registers.rbx = root.address());
        if after.rip != BASE {
            assert_eq!(after.rip, BASE + 3);
            break;
        }
        assert_eq!(roots(&world, &guest), before, "the old one until then");
        pieces += 1;
    }
    assert!(pieces > 0, "it was made in one go");
    assert_eq!(roots(&world, &guest), (Some(root), root));
    world.check_end(vec![guest]);
}

/// What an instruction sets is where the rest of the hypervisor looks for it.
#[test]
fn what_is_written_is_the_vcpus() {
    let world = World::new();
    let guest = guest(&world);
    let wrmsr = |number: u64, value: u64| {
        let after = execute(&world, &guest, &[0x0f, 0x30], |registers| {
            (registers.rcx, registers.rax, registers.rdx) = (number, value & 0xffff_ffff, value >> 32);
        });
        assert_eq!(after.rip, BASE + 2);
    };
    wrmsr(0xc000_0100, 0x11_0000_0000);
    wrmsr(0xc000_0101, 0x22_0000_0000);
    wrmsr(0xc000_0102, 0x33_0000_0000);
    let mov = |code: [u8; 3], rbx: u64| {
        assert_eq!(execute(&world, &guest, &code, |registers| registers.rbx = rbx).rip, BASE + 3);
    };
    mov([0x0f, 0x22, 0xd3], 0x1234_5678_9abc);
    mov([0x0f, 0x22, 0xe3], 1 << 3);
    mov([0x0f, 0x23, 0xcb], 0x5000); // dr1
    world.on_vcpu(&guest, |handle, vcpu| {
        let context = &vcpu.context;
        assert_eq!((context.fs_base, context.gs_base), (0x11_0000_0000, 0x22_0000_0000));
        assert_eq!(vcpu.other_gs_base, 0x33_0000_0000, "the programs'");
        assert_eq!((handle.info().cr2(), vcpu.cr4), (0x1234_5678_9abc, 1 << 3));
        assert_eq!(context.debug.addresses, [0, 0x5000, 0, 0]);
        assert_eq!(context.xcr0, None);
    });
    let read = execute(&world, &guest, &[0x0f, 0x20, 0xd3], |_| ());
    assert_eq!(read.registers.rbx, 0x1234_5678_9abc, "mov rbx, cr2");
    let read = execute(&world, &guest, &[0x0f, 0x20, 0xdb], |_| ());
    assert_eq!(read.registers.rbx, guest.root.address(), "mov rbx, cr3");
}

/// As on Xen, whoever handles #NM finds TS clear. An `int` is no #NM.
#[test]
fn ts_is_set_until_nm_is_delivered() {
    const NM: u8 = 7;
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |_, vcpu| {
        vcpu.traps.set(TrapInfo { vector: NM, flags: 1, cs: 0xe033, padding: 0, address: handler(NM) });
    });
    let task_switched = || world.on_vcpu(&guest, |_, vcpu| vcpu.context.task_switched);
    let write = |value| execute(&world, &guest, &[0x0f, 0x22, 0xc3], |registers| registers.rbx = value);
    for (value, set) in [(0x8005_003b, true), (0x8005_0033, false), (0x8005_003b, true)] {
        assert_eq!(write(value).rip, BASE + 3, "mov cr0, rbx");
        assert_eq!(task_switched(), set);
    }
    assert_eq!(execute(&world, &guest, &[0x0f, 0x06], |_| ()).rip, BASE + 2, "clts");
    assert!(!task_switched());
    for (vector, code, still_set) in [(UD, [0xcd, NM], true), (NM, [0xd9, 0xd0], false)] {
        assert_eq!(world.call(&guest, 5, &[1]), Ok(0));
        assert!(task_switched());
        assert_eq!(raise(&world, &guest, &code, vector, 0), handler(NM));
        assert_eq!(task_switched(), still_set, "{code:x?}");
        let frame: [u64; 7] = world.peek(&guest, STACK - 56);
        assert_eq!(frame[2], if still_set { BASE + 2 } else { BASE }, "`fnop` is executed again");
    }
}

/// It is for programs that a kernel sets it; every other exception leaves it as it is, and so does going back to a program.
#[test]
fn ts_of_a_program_is_cleared_by_nm_alone() {
    let world = World::new();
    let guest = guest(&world);
    for vector in [0, 1, 3, 6, 7, 13, 14, 16, 17, 19] {
        let cleared = vector == 7;
        let (mode, rip, task_switched) = world.on_vcpu(&guest, |handle, vcpu| {
            vcpu.traps.set(TrapInfo { vector, flags: 0, cs: 0xe033, padding: 0, address: handler(vector) });
            vcpu.context.task_switched = true;
            vcpu.user_for_test(&world.services.mmu, guest.user_root);
            vcpu.context.registers.rip = USER_BASE;
            let fault = Fault { vector, error_code: 0, cr2: 0 };
            exception(&world.services, vcpu, handle.info(), fault).unwrap();
            (vcpu.mode, vcpu.context.registers.rip, vcpu.context.task_switched)
        });
        assert_eq!((mode, rip, task_switched), (Mode::Kernel, handler(vector), !cleared), "vector {vector}");
    }
}

#[test]
fn ts_stays_clear_where_no_nm_is_raised() {
    let world = World::without_nm();
    let guest = guest(&world);
    let set = execute(&world, &guest, &[0x0f, 0x22, 0xc3], |registers| registers.rbx = 0x8005_003b);
    assert_eq!(set.rip, handler(GP));
    assert_eq!(execute(&world, &guest, &[0x0f, 0x06], |_| ()).rip, BASE + 2, "clts");
    let same = execute(&world, &guest, &[0x0f, 0x22, 0xc3], |registers| registers.rbx = 0x8005_0033);
    assert_eq!(same.rip, BASE + 3);
    assert!(!world.on_vcpu(&guest, |_, vcpu| vcpu.context.task_switched));
}

/// Where the second page is gone, so is the instruction, however little of it is missing.
#[test]
fn an_instruction_may_cross_pages_that_are_there() {
    let world = World::new();
    let guest = guest(&world);
    let mov_cr2 = [0x0f_u8, 0x22, 0xd3];
    for (boundary, in_first, expected) in
        [(page(1), 1, None), (page(1), 2, None), (END, 1, Some(GP)), (END, 2, Some(GP)), (END, 3, None)]
    {
        let at = boundary - in_first;
        for (offset, byte) in (0..).zip(mov_cr2).take_while(|(offset, _)| at + offset < END) {
            world.poke(&guest, at + offset, &byte);
        }
        let arrived = world.on_vcpu(&guest, |handle, vcpu| {
            let registers = &mut vcpu.context.registers;
            (registers.rip, registers.rsp, registers.rbx) = (at, STACK, at);
            handle.info().set_cr2(0);
            exception(&world.services, vcpu, handle.info(), Fault { vector: GP, error_code: 0, cr2: 0 })
                .unwrap();
            (vcpu.context.registers.rip, handle.info().cr2())
        });
        assert_eq!(
            arrived,
            expected.map_or((at + 3, at), |vector| (handler(vector), 0)),
            "{boundary:#x} {in_first}"
        );
    }
}

/// Another vCPU writes over the instruction as soon as it was read: one is carried out, and it is the one that was read.
#[test]
fn what_is_carried_out_was_fetched_once() {
    let world = World::new();
    let guest = privileged_guest(&world);
    for seed in 1..=200 {
        change_what_is_read(Some((guest.domain.id(), seed)));
        let wrmsr = execute(&world, &guest, &[0x0f, 0x30], |registers| {
            (registers.rcx, registers.rax, registers.rdx) = (0xc000_0101, 0x5000, 0x11);
        });
        let ins = execute(&world, &guest, &[0xf3, 0x6c], |registers| {
            (registers.rcx, registers.rdi, registers.rdx) = (20, page(3), 0x60);
        });
        change_what_is_read(None);
        assert_eq!((wrmsr.rip, ins.rip), (BASE + 2, BASE + 2), "seed {seed}");
        assert_eq!((ins.registers.rcx, ins.registers.rdi), (0, page(3) + 20), "seed {seed}");
        world.on_vcpu(&guest, |_, vcpu| assert_eq!(vcpu.context.gs_base, 0x11_0000_5000, "seed {seed}"));
        assert_eq!(world.peek::<[u8; 20]>(&guest, page(3)), [0xff; 20], "seed {seed}");
    }
}

/// Where elements trap one by one, the last one ends the instruction all the same.
#[test]
fn a_trap_behind_the_last_element_is_behind_the_instruction() {
    let world = World::new();
    let guest = privileged_guest(&world);
    for (code, count) in [(&[0x6e][..], 5), (&[0xf3, 0x6e], 1)] {
        let after = execute(&world, &guest, code, |registers| {
            (registers.rflags, registers.rcx, registers.rsi) = (0x202 | rflags::TF, count, page(3));
        });
        let frame: [u64; 7] = world.peek(&guest, STACK - 56);
        assert_eq!((after.rip, frame[2]), (handler(DB), BASE + code.len() as u64), "{code:x?}");
        assert_eq!(after.registers.rsi, page(3) + 1, "{code:x?}");
    }
}
