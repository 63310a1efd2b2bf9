//! Instructions that trap, in a guest's memory.

mod carried_out;
mod pure;

use super::*;
use crate::testing::{BASE, Guest, STACK, USER_BASE, World, change_what_is_read, page};
use crate::vcpu::{Callback, Mode};
use pv_abi::Pfn;
use pv_abi::address::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use pv_abi::physdev::SetIopl;
use pv_abi::trap::TrapInfo;

const HANDLER: u64 = BASE + 0x800;
const GP: u8 = 13;
const UD: u8 = 6;

fn guest(world: &World) -> Guest {
    let guest = world.guest();
    world.on_vcpu(&guest, |_, vcpu| {
        for (vector, dpl) in [(UD, 0), (GP, 0), (14, 0), (0x80, 3), (0x81, 1)] {
            let address = HANDLER + u64::from(vector) * 16;
            vcpu.traps.set(TrapInfo { vector, flags: dpl, cs: 0xe033, padding: 0, address });
        }
        vcpu.kernel_stack = page(20);
    });
    guest
}

/// Lets the kernel execute `code`, which raises `vector`; where it goes on.
fn raise(world: &World, guest: &Guest, code: &[u8], vector: u8, error_code: u64) -> u64 {
    world.poke(guest, BASE, code);
    world.on_vcpu(guest, |handle, vcpu| {
        let registers = &mut vcpu.context.registers;
        (registers.rip, registers.rsp) = (BASE, STACK);
        exception(&world.services, vcpu, handle.info(), Fault { vector, error_code, cr2: 0 }).unwrap();
        vcpu.context.registers.rip
    })
}

fn handler(vector: u8) -> u64 {
    HANDLER + u64::from(vector) * 16
}

#[test]
fn software_interrupts_arrive_either_way() {
    let world = World::new();
    let guest = guest(&world);
    for (vector, error_code) in [(UD, 0), (GP, 0x80 * 8 + 2)] {
        assert_eq!(raise(&world, &guest, &[0xcd, 0x80], vector, error_code), handler(0x80));
        let frame: [u64; 7] = world.peek(&guest, STACK - 56);
        assert_eq!(frame[2], BASE + 2, "behind the instruction, without an error code");
    }
    assert_eq!(raise(&world, &guest, &[0xcd, 0x81], UD, 0), handler(0x81), "open to the kernel");
    assert_eq!(raise(&world, &guest, &[0xcd, 0x82], UD, 0), handler(GP), "no handler");
    let frame: [u64; 8] = world.peek(&guest, STACK - 64);
    assert_eq!((frame[2], frame[3]), (0x82 * 8 + 2, BASE), "names the vector, at the instruction");
}

#[test]
fn user_mode_reaches_only_what_is_open_to_it() {
    let world = World::new();
    let guest = guest(&world);
    for (vector, expected) in [(0x80, handler(0x80)), (0x81, handler(GP))] {
        let memory = &world.machine.memory;
        memory.write(guest.user_pages[0], 0, &[0xcd, vector]).unwrap();
        world.on_vcpu(&guest, |handle, vcpu| {
            vcpu.user_for_test(&world.services.mmu, guest.user_root);
            vcpu.context.registers.rip = USER_BASE;
            let fault = Fault { vector: UD, error_code: 0, cr2: 0 };
            exception(&world.services, vcpu, handle.info(), fault).unwrap();
            assert_eq!((vcpu.mode, vcpu.context.registers.rip), (Mode::Kernel, expected));
        });
    }
}

/// AMD's CPUs refuse it with #UD, Intel's with #GP: the kernel gets it by its callback, or as that exception.
#[test]
fn sysenter_is_its_callback_where_there_is_one() {
    let world = World::new();
    let guest = guest(&world);
    world.machine.memory.write(guest.user_pages[0], 0, &[0x0f, 0x34]).unwrap();
    for vector in [UD, GP] {
        for callback in [None, Some(Callback { address: BASE + 0x400, masks_events: false })] {
            let arrived = world.on_vcpu(&guest, |handle, vcpu| {
                vcpu.callbacks.sysenter = callback;
                vcpu.user_for_test(&world.services.mmu, guest.user_root);
                vcpu.context.registers.rip = USER_BASE;
                let fault = Fault { vector, error_code: 0, cr2: 0 };
                exception(&world.services, vcpu, handle.info(), fault).unwrap();
                vcpu.context.registers.rip
            });
            assert_eq!(arrived, callback.map_or(handler(vector), |callback| callback.address));
        }
        assert_eq!(raise(&world, &guest, &[0x0f, 0x34], vector, 0), handler(vector), "the kernel's own");
    }
}

#[test]
fn syscall_of_32_bit_code_is_its_callback_where_there_is_one() {
    let world = World::new();
    let guest = guest(&world);
    world.machine.memory.write(guest.user_pages[0], 0, &[0x0f, 0x05]).unwrap();
    let callback = Some(Callback { address: BASE + 0x400, masks_events: false });
    // The flat segment, and one of the guest's own.
    for (cs, callback, arrived) in [
        (0xe023, callback, BASE + 0x400),
        (0xe023, None, handler(UD)),
        (0x0b, callback, BASE + 0x400),
        (0x0b, None, handler(UD)),
    ] {
        let rip = world.on_vcpu(&guest, |handle, vcpu| {
            vcpu.callbacks.syscall32 = callback;
            vcpu.user_for_test(&world.services.mmu, guest.user_root);
            vcpu.context.descriptors = vec![0, 0x00cf_fb00_0000_ffff];
            (vcpu.context.cs, vcpu.context.registers.rip) = (cs, USER_BASE);
            let fault = Fault { vector: UD, error_code: 0, cr2: 0 };
            assert_eq!(exception(&world.services, vcpu, handle.info(), fault).unwrap(), Carried::Out);
            vcpu.context.registers.rip
        });
        assert_eq!(rip, arrived, "{cs:#x} {callback:?}");
    }
}

/// Where the machine refuses it: left to the caller, with the registers that the instruction leaves.
#[test]
fn syscall_of_64_bit_code_is_not_the_guests_fault() {
    let world = World::new();
    let guest = guest(&world);
    world.poke(&guest, BASE, &[0x0fu8, 0x05]);
    // The flat segment, and one of the guest's own.
    for cs in [0xe033, 0x0b] {
        world.on_vcpu(&guest, |handle, vcpu| {
            vcpu.context.descriptors = vec![0, 0x00af_fb00_0000_ffff];
            (vcpu.context.cs, vcpu.context.ss) = (cs, 0x13);
            let registers = &mut vcpu.context.registers;
            (registers.rip, registers.rsp, registers.rflags, registers.rax) = (BASE, STACK, 0x646, 17);
            let fault = Fault { vector: UD, error_code: 0, cr2: 0 };
            assert_eq!(exception(&world.services, vcpu, handle.info(), fault).unwrap(), Carried::Syscall);
            let r = vcpu.context.registers;
            assert_eq!((r.rip, r.rcx, r.r11, r.rflags), (BASE + 2, BASE + 2, 0x646, 0x646));
            assert_eq!((r.rax, r.rsp), (17, STACK));
            assert_eq!((vcpu.context.cs, vcpu.context.ss), (0xe033, 0xe02b));
        });
    }
    // #GP is never what it raises.
    assert_eq!(raise(&world, &guest, &[0x0f, 0x05], GP, 0), handler(GP));
}

#[test]
fn the_prefixed_cpuid_gets_the_hypervisors_answer() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |_, vcpu| vcpu.context.registers.rax = 0x4000_0100);
    assert_eq!(raise(&world, &guest, b"\x0f\x0bxen\x0f\xa2", UD, 0), BASE + 7);
    world.on_vcpu(&guest, |_, vcpu| {
        assert_eq!(vcpu.context.registers.rbx, u64::from(u32::from_le_bytes(*b"Para")));
    });
    assert_eq!(raise(&world, &guest, b"\x0f\x0b\x90\x90", UD, 0), handler(UD), "a plain ud2 is the guest's");
}

#[test]
fn io_is_the_guests_fault_unless_it_has_the_privilege() {
    let world = World::new();
    let guest = guest(&world);
    for code in [&[0xfa][..], &[0xfb], &[0xec], &[0xee]] {
        assert_eq!(raise(&world, &guest, code, GP, 0), handler(GP));
    }
    world.poke(&guest, page(1), &SetIopl { iopl: 1 });
    assert_eq!(world.call(&guest, 33, &[6, page(1)]), Ok(0));
    world.on_vcpu(&guest, |_, vcpu| vcpu.context.registers.rax = 0x1234);
    assert_eq!(raise(&world, &guest, &[0xec], GP, 0), BASE + 1, "in al, dx");
    world.on_vcpu(&guest, |_, vcpu| assert_eq!(vcpu.context.registers.rax, 0x12ff));
    assert_eq!(raise(&world, &guest, &[0xfa], GP, 0), BASE + 1);
    assert_eq!(raise(&world, &guest, &[0xf4], GP, 0), handler(GP), "hlt");
}

/// The kernel executes `code`, which reads the M2P at Xen's address; where it goes on, and RAX.
fn read_m2p(world: &World, guest: &Guest, code: &[u8], offset: u64, error_code: u64) -> (u64, u64) {
    world.poke(guest, BASE, code);
    world.on_vcpu(guest, |handle, vcpu| {
        let registers = &mut vcpu.context.registers;
        (registers.rip, registers.rsp, registers.rax) = (BASE, STACK, 0);
        let fault = Fault { vector: 14, error_code, cr2: MACH2PHYS_VIRT_START.wrapping_add(offset) };
        exception(&world.services, vcpu, handle.info(), fault).unwrap();
        (vcpu.context.registers.rip, vcpu.context.registers.rax)
    })
}

#[test]
fn the_m2p_can_be_read_at_xens_address() {
    let world = World::new();
    let guest = guest(&world);
    let mfn = guest.pages[3];
    world.services.mmu.set_pfn(mfn, Pfn(0x1_2345_6789));
    let load64 = [0x48, 0x8b, 0x00];
    assert_eq!(read_m2p(&world, &guest, &load64, mfn.0 * 8, 0), (BASE + 3, 0x1_2345_6789));
    assert_eq!(read_m2p(&world, &guest, &[0x8b, 0x00], mfn.0 * 8, 0), (BASE + 2, 0x2345_6789));
    assert_eq!(read_m2p(&world, &guest, &[0x0f, 0xb6, 0x00], mfn.0 * 8 + 1, 0), (BASE + 3, 0x67));
    assert_eq!(read_m2p(&world, &guest, &load64, 512 * 8, 0), (BASE + 3, u64::MAX), "past its end");
    for (code, error_code) in [(&load64[..], 0b10), (&[0x48, 0x01, 0x00][..], 0)] {
        assert_eq!(read_m2p(&world, &guest, code, 8, error_code).0, handler(14), "{code:x?}");
    }
    assert_eq!(read_m2p(&world, &guest, &load64, 4092, 0).0, handler(14), "in two frames");
    let size = MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START;
    for elsewhere in [size, 0_u64.wrapping_sub(8), 0x1000_u64.wrapping_sub(MACH2PHYS_VIRT_START)] {
        assert_eq!(read_m2p(&world, &guest, &load64, elsewhere, 0).0, handler(14), "not the M2P");
    }
}

/// What is carried out for kernels is not for their programs: there it is the fault that it was.
#[test]
fn user_mode_does_not_read_the_m2p() {
    let world = World::new();
    let guest = guest(&world);
    world.machine.memory.write(guest.user_pages[0], 0, &[0x48, 0x8b, 0x00]).unwrap();
    world.on_vcpu(&guest, |handle, vcpu| {
        vcpu.user_for_test(&world.services.mmu, guest.user_root);
        vcpu.context.registers.rip = USER_BASE;
        let fault = Fault { vector: 14, error_code: 0b100, cr2: MACH2PHYS_VIRT_START + 8 };
        exception(&world.services, vcpu, handle.info(), fault).unwrap();
        assert_eq!((vcpu.mode, vcpu.context.registers.rip), (Mode::Kernel, handler(14)));
    });
}

#[test]
fn an_instruction_that_cannot_be_fetched_is_the_guests_fault() {
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |handle, vcpu| {
        vcpu.context.registers.rip = BASE - 1;
        let fault = Fault { vector: UD, error_code: 0, cr2: 0 };
        exception(&world.services, vcpu, handle.info(), fault).unwrap();
        assert_eq!(vcpu.context.registers.rip, handler(UD));
    });
}

/// Another vCPU writes over an instruction as soon as it was read. What is carried out is what was read, as a whole.
#[test]
fn an_instruction_is_what_it_was_when_it_was_fetched() {
    let world = World::new();
    let guest = guest(&world);
    let mfn = guest.pages[3];
    world.services.mmu.set_pfn(mfn, Pfn(0x1_2345_6789));
    for seed in 1..=300 {
        world.poke(&guest, BASE, &[0x90_u8; 16]);
        change_what_is_read(Some((guest.domain.id(), seed)));
        let arrived = raise(&world, &guest, &[0xcd, 0x80], UD, 0);
        let loaded = read_m2p(&world, &guest, &[0x48, 0x8b, 0x00], mfn.0 * 8, 0);
        change_what_is_read(None);
        let frame: [u64; 7] = world.peek(&guest, STACK - 56);
        assert_eq!((arrived, frame[2]), (handler(0x80), BASE + 2), "seed {seed}");
        assert_eq!(loaded, (BASE + 3, 0x1_2345_6789), "seed {seed}");
    }
}
