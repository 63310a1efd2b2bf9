//! The ways that a CPU has from CPL3 to CPL0, taken by a guest's code, 64-bit and 32-bit: each lands in the stub or is
//! refused where it stands. `docs/security.md`, "Ways to CPL0", lists them with what closes each.

use crate::escape::Setup;
use crate::guest::{CODE, STACK_TOP, put, rw};
use crate::support::{check, kvm_test};
use crate::ways::WAYS;
use hypervisor::machine::{Exit, Pcpu};
use libtest_mimic::{Failed, Trial};
use pv_abi::page_table::Level;
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("entries/syscall in 32-bit code", syscall_in_32_bit_code),
        kvm_test("entries/syscall in 32-bit code, address 0 mapped", syscall_with_address_0_mapped),
        kvm_test("entries/all other ways", all_other_ways),
        kvm_test("entries/software interrupts in 32-bit code", software_interrupts_in_32_bit_code),
        kvm_test("entries/single steps over the 32-bit gate", single_steps_over_the_32_bit_gate),
    ]
}

const SYSCALL: &[u8] = &[0x0f, 0x05];
const UD: u8 = 6;

fn is_at_its_gate(exit: &Exit, rip: u64) -> bool {
    *exit == Exit::Syscall32 && rip == CODE + SYSCALL.len() as u64
}

/// Intel's CPUs do not have it.
fn is_unknown(exit: &Exit, rip: u64) -> bool {
    matches!(exit, Exit::Exception { vector: UD, .. }) && rip == CODE
}

fn syscall_in_32_bit_code() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    for _ in 0..3 {
        let (exit, registers) = setup.run_in(FLAT_RING3_CS32, SYSCALL, 0)?;
        let closed = is_at_its_gate(&exit, registers.rip) || is_unknown(&exit, registers.rip);
        check(closed && registers.rsp == STACK_TOP, || format!("{exit:?} {registers:x?}"))?;
        setup.still_works()?;
    }
    Ok(())
}

/// What is at address 0 is the guest's, and must not run with CPL0.
fn syscall_with_address_0_mapped() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let (table, page) = (setup.guest.frame(10), setup.guest.frame(11));
    let memory = &setup.machine.memory;
    put(memory, setup.guest.l2(), Level::L2, 0, rw(table))?;
    put(memory, table, Level::L1, 0, rw(page))?;
    // mov rax, cr3; mov [0x800], rax; ud2
    let landed = [0x0f, 0x20, 0xd8, 0x48, 0x89, 0x04, 0x25, 0, 8, 0, 0, 0x0f, 0x0b];
    memory.write(page, 0, &landed)?;
    let (exit, registers) = setup.run_in(FLAT_RING3_CS32, SYSCALL, 0)?;
    let read = setup.machine.memory.load_u64(page, 0x800)?;
    check(read == 0, || format!("the guest read CR3, {read:#x}, after which: {exit:?}"))?;
    check(is_at_its_gate(&exit, registers.rip) || is_unknown(&exit, registers.rip), || {
        format!("{exit:?} {registers:x?}")
    })?;
    setup.still_works()
}

fn all_other_ways() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    for (bits, cs) in [(64, FLAT_RING3_CS64), (32, FLAT_RING3_CS32)] {
        for way in WAYS.iter().filter(|way| way.exists_in(bits)) {
            // What does nothing goes on to `ud2`.
            let code = [way.code, &[0x0f, 0x0b]].concat();
            let (exit, registers) = setup.run_in(cs, &code, CODE)?;
            let Exit::Exception { vector, .. } = exit else {
                return Err(format!("{}, {bits} bits: {exit:?} {registers:x?}", way.name).into());
            };
            let near = (CODE..=CODE + code.len() as u64).contains(&registers.rip);
            check(way.arrives_as(vector.into()) && near, || {
                format!("{}, {bits} bits: {exit:?} {registers:x?}", way.name)
            })?;
        }
        setup.still_works()?;
    }
    Ok(())
}

fn software_interrupts_in_32_bit_code() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    for vector in 0..=255u8 {
        let (exit, registers) = setup.run_in(FLAT_RING3_CS32, &[0xcd, vector, 0x0f, 0x0b], 0)?;
        // `int 3` and `int 4` have gates of their own for programs.
        let arrived =
            matches!(exit, Exit::Exception { vector: arrived, .. } if matches!(arrived, 3 | 4 | 6 | 13));
        check(arrived && registers.rsp == STACK_TOP, || format!("int {vector:#x}: {exit:?} {registers:x?}"))?;
    }
    setup.still_works()
}

/// The trap flag does not hold at the gate, nor does any other flag that the CPU must not have at CPL0.
fn single_steps_over_the_32_bit_gate() -> Result<(), Failed> {
    const TF: u64 = 1 << 8;
    const DF_NT_AC: u64 = 1 << 10 | 1 << 14 | 1 << 18;
    let mut setup = Setup::new(&[])?;
    setup.machine.memory.write(setup.guest.code(), 0, &[0x0f, 0x05, 0x90, 0x90])?;
    for flags in [TF, DF_NT_AC, TF | DF_NT_AC] {
        let mut context = setup.guest.context(1);
        context.cs = FLAT_RING3_CS32;
        context.registers.rflags |= flags;
        let exit = crate::guest::enter(&mut setup.pcpu, &mut context)?;
        let rip = context.registers.rip;
        check(is_at_its_gate(&exit, rip) || is_unknown(&exit, rip), || {
            format!("flags {flags:#x}: {exit:?} at {rip:#x}")
        })?;
        setup.pcpu.save(&mut context)?;
    }
    setup.still_works()
}
