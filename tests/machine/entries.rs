//! The ways that a CPU has from CPL3 to CPL0, taken by a guest's code, 64-bit and 32-bit: each lands in the stub or is
//! refused where it stands. `docs/security.md`, "Ways to CPL0", lists them with what closes each.

use crate::escape::Setup;
use crate::guest::{CODE, STACK_TOP, enter, put, rw};
use crate::support::{check, kvm_test};
use crate::ways::WAYS;
use hypervisor::machine::{Exit, Pcpu};
use libtest_mimic::{Failed, Trial};
use pv_abi::page_table::Level;
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("entries/syscall in 32-bit code", syscall_in_32_bit_code),
        kvm_test("entries/syscall in 32-bit code, address 0 mapped", syscall_with_address_0_mapped),
        kvm_test("entries/all other ways", all_other_ways),
        kvm_test("entries/software interrupts in 32-bit code", software_interrupts_in_32_bit_code),
        kvm_test("entries/ud2 that becomes syscall", ud2_that_becomes_syscall),
    ]
}

const SYSCALL: &[u8] = &[0x0f, 0x05];
const UD: u8 = 6;

/// It is refused where it stands.
fn is_refused(exit: &Exit, rip: u64) -> bool {
    matches!(exit, Exit::Exception { vector: UD, .. }) && rip == CODE
}

fn syscall_in_32_bit_code() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    for _ in 0..3 {
        let (exit, registers) = setup.run_in(FLAT_RING3_CS32, SYSCALL, 0)?;
        check(is_refused(&exit, registers.rip) && registers.rsp == STACK_TOP, || {
            format!("{exit:?} {registers:x?}")
        })?;
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
    check(is_refused(&exit, registers.rip), || format!("{exit:?} {registers:x?}"))?;
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
            let behind = CODE + way.code.len() as u64;
            let trapped = way.arrives.contains(&vector.into()) && registers.rip <= behind;
            // Nothing of it was carried out: it has not come to `ud2`.
            let refused = way.arrives_as(vector.into()) && (CODE..behind).contains(&registers.rip);
            check(trapped || refused || way.is_answered && registers.rip == behind, || {
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

/// KVM fetches an instruction again that raised #UD, and emulates what it finds. Another vCPU, or a disk, may have written
/// `syscall` there: with EFER.SCE it would land at the lower half of CSTAR, which is a guest's, with CPL0.
fn ud2_that_becomes_syscall() -> Result<(), Failed> {
    const UD2: &[u8] = &[0x0f, 0x0b];
    let time = std::env::var("ENTRIES_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(2);
    let end = Instant::now() + Duration::from_secs(time);
    let mut setup = Setup::new(&[])?;
    let (table, page, code) = (setup.guest.frame(10), setup.guest.frame(11), setup.guest.code());
    let memory = Arc::clone(&setup.machine.memory);
    put(&memory, setup.guest.l2(), Level::L2, 0, rw(table))?;
    put(&memory, table, Level::L1, LANDING, rw(page))?;
    // From the page's start on: nops, then mov rax, cr3; mov [0x1800], rax; ud2
    let landed = [0x0f, 0x20, 0xd8, 0x48, 0x89, 0x04, 0x25, 0, 0x18, 0, 0, 0x0f, 0x0b];
    memory.write(page, 0, &[0x90; 64])?;
    memory.write(page, 64, &landed)?;
    memory.write(code, 0, UD2)?;
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut wait = 1u64;
            while !stop.load(Ordering::Relaxed) {
                for bytes in [SYSCALL, UD2] {
                    wait = wait.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (0..wait >> 56).for_each(|_| std::hint::spin_loop());
                    memory.write(code, 0, bytes).expect("the guest's code");
                }
            }
        });
        let mut refused = 0u64;
        let mut run = || -> Result<(), Failed> {
            while Instant::now() < end || refused < 100 {
                let mut context = setup.guest.context(1);
                context.cs = FLAT_RING3_CS32;
                let exit = enter(&memory, &mut setup.pcpu, &mut context)?;
                check(is_refused(&exit, context.registers.rip), || {
                    format!("after {refused} refusals: {exit:?} {:x?}", context.registers)
                })?;
                setup.pcpu.save(&mut context)?;
                refused += 1;
            }
            Ok(())
        };
        let result = run();
        stop.store(true, Ordering::Relaxed);
        result
    });
    let read = memory.load_u64(page, 0x800)?;
    check(read == 0, || format!("the guest read CR3 ({read:#x}) at CPL0; {result:?}"))?;
    result?;
    setup.still_works()
}

/// Where CSTAR would lead, cut to 32 bits.
const LANDING: u64 = 0x1000;
