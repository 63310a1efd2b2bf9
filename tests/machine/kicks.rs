//! Two vCPUs on one pcpu, kicked at random moments: what belongs to one never reaches the other.

use crate::guest::{CODE, Guest, enter_once, machine};
use crate::support::{check, fail, kvm_test, skippable_kvm_test};
use hypervisor::machine::{Context, Exit, Kick, Pcpu};
use libtest_mimic::{Completion, Failed, Trial};
use pv_abi::trap::rflags;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("kicks/a spinning guest is got out of", a_spinning_guest_is_got_out_of),
        kvm_test("kicks/a kick before entering is not lost", a_kick_before_entering_is_not_lost),
        kvm_test("kicks/exceptions stay with their vCPU", exceptions_stay_with_their_vcpu),
        kvm_test("kicks/traps are not lost", traps_are_not_lost),
        kvm_test("kicks/vector registers stay with their vCPU", vector_registers_stay_with_their_vcpu),
        skippable_kvm_test("kicks/upper halves of vector registers stay with their vCPU", upper_halves_stay),
        kvm_test("kicks/segment bases stay with their vCPU", segment_bases_stay_with_their_vcpu),
    ]
}

fn a_spinning_guest_is_got_out_of() -> Result<(), Failed> {
    let mut machine = machine(1)?;
    let guest = Guest::new(&machine, 0, &[0xeb, 0xfe])?; // jmp to itself
    let (mut pcpu, kick) = machine.pcpus.remove(0);
    let mut context = guest.context(1);
    for _ in 0..20 {
        let kick = Arc::clone(&kick);
        let kicker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            kick.kick();
        });
        check(pcpu.enter(&mut context)? == Exit::Kicked, || "not kicked".into())?;
        check(context.registers.rip == CODE, || format!("rip {:#x}", context.registers.rip))?;
        kicker.join().map_err(|_| "the kicker panicked")?;
    }
    Ok(())
}

fn a_kick_before_entering_is_not_lost() -> Result<(), Failed> {
    let mut machine = machine(1)?;
    let guest = Guest::new(&machine, 0, &[0xeb, 0xfe])?;
    let (mut pcpu, kick) = machine.pcpus.remove(0);
    let mut context = guest.context(1);
    kick.kick();
    check(pcpu.enter(&mut context)? == Exit::Kicked, || "not kicked".into())
}

/// What must be seen takes some hundred kicks to be seen; a busy host lands few, and must not take for ever.
const KICKS: u64 = 2500;
const LONGEST: Duration = Duration::from_secs(15);

/// Runs two vCPUs in turn for a while, a vCPU each time until it exits, while kicks hail down; `verify` looks at
/// each exit of vCPU 0 or 1.
fn in_turn_under_kicks(
    code: &[u8],
    prepare: impl Fn(usize, &mut Context),
    mut verify: impl FnMut(usize, &mut Context, Exit) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let mut machine = machine(1)?;
    let guests = [Guest::new(&machine, 0, code)?, Guest::new(&machine, 1, code)?];
    let memory = Arc::clone(&machine.memory);
    let (mut pcpu, kick) = machine.pcpus.remove(0);
    let mut contexts = [guests[0].context(1), guests[1].context(2)];
    for (n, context) in contexts.iter_mut().enumerate() {
        prepare(n, context);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut wait = 1u64;
            while !stop.load(SeqCst) {
                kick.kick();
                wait = wait.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let until = Instant::now() + Duration::from_nanos(wait >> 32 & 0xffff);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
        });
        let end = Instant::now() + LONGEST;
        let mut run = || -> Result<(), Failed> {
            let (mut seen, mut kicked) = ([0u64; 2], 0);
            while kicked < KICKS && Instant::now() < end {
                for (n, context) in contexts.iter_mut().enumerate() {
                    for _ in 0..3 {
                        match enter_once(&memory, &mut pcpu, context)? {
                            Exit::Kicked => kicked += 1,
                            exit => {
                                seen[n] += 1;
                                verify(n, context, exit)?;
                            }
                        }
                    }
                    pcpu.save(context)?;
                }
            }
            check(seen.iter().all(|&seen| seen > 20), || format!("hardly anything ran: {seen:?}"))
        };
        let result = run();
        stop.store(true, SeqCst);
        result
    })
}

/// vCPU 0 executes `ud2`, vCPU 1 loads from an address that is not mapped, over and over.
fn exceptions_stay_with_their_vcpu() -> Result<(), Failed> {
    let mut code = vec![0xcc; 0x100];
    code[..4].copy_from_slice(&[0x0f, 0x0b, 0x0f, 0x0b]);
    code.extend([0x8a, 0x04, 0x25, 0x00, 0x10, 0x00, 0x00]); // mov al, [0x1000]
    in_turn_under_kicks(
        &code,
        |n, context| {
            context.registers.rip = CODE + n as u64 * 0x100;
            context.registers.rbx = n as u64;
        },
        |n, context, exit| {
            let as_expected = match (n, &exit) {
                (0, Exit::Exception { vector: 6, .. }) => true,
                (1, Exit::Exception { vector: 14, error_code, cr2: 0x1000 }) => error_code & 0x1e == 4,
                _ => false,
            };
            check(as_expected && context.registers.rbx == n as u64, || format!("vCPU {n}: {exit:?}"))?;
            check(context.registers.rip == CODE + n as u64 * 0x100, || {
                format!("vCPU {n}: {:?}", context.registers)
            })
        },
    )
}

/// Both vCPUs single-step through the same instructions. A trap comes behind its instruction: one that is dropped on the
/// way out does not come again.
fn traps_are_not_lost() -> Result<(), Failed> {
    const NOPS: u64 = 64;
    let mut code = vec![0x90; NOPS as usize];
    code.extend([0xeb, 0xbe]); // jmp to the start
    let mut last = [CODE; 2];
    in_turn_under_kicks(
        &code,
        |_, context| context.registers.rflags |= rflags::TF,
        |n, context, exit| {
            check(matches!(exit, Exit::Exception { vector: 1, .. }), || format!("vCPU {n}: {exit:?}"))?;
            let rip = context.registers.rip;
            let next = if last[n] == CODE + NOPS { CODE } else { last[n] + 1 };
            check(rip == next, || format!("vCPU {n}: from {:#x} to {rip:#x}", last[n]))?;
            last[n] = rip;
            Ok(())
        },
    )
}

/// Each vCPU counts in a vector register and reports it.
fn vector_registers_stay_with_their_vcpu() -> Result<(), Failed> {
    // paddq xmm3, xmm4; movq rax, xmm3; inc rbx; syscall; jmp to the start
    let code =
        [0x66, 0x0f, 0xd4, 0xdc, 0x66, 0x48, 0x0f, 0x7e, 0xd8, 0x48, 0xff, 0xc3, 0x0f, 0x05, 0xeb, 0xf0];
    // movq xmm3, rsi; movq xmm4, rdi; syscall: the start of each
    let mut image = code.to_vec();
    image.resize(0x100, 0xcc);
    image.extend([0x66, 0x48, 0x0f, 0x6e, 0xde, 0x66, 0x48, 0x0f, 0x6e, 0xe7, 0x0f, 0x05]);
    let step = |n: usize| n as u64 * 1_000_000 + 7;
    in_turn_under_kicks(
        &image,
        |n, context| {
            context.registers.rip = CODE + 0x100;
            context.registers.rdi = step(n);
        },
        |n, context, exit| {
            check(exit == Exit::Syscall, || format!("vCPU {n}: {exit:?}"))?;
            let registers = &mut context.registers;
            let expected = registers.rbx * step(n);
            check(registers.rbx == 0 || registers.rax == expected, || {
                format!("vCPU {n} after {} rounds: {} instead of {expected}", registers.rbx, registers.rax)
            })?;
            registers.rip = CODE;
            Ok(())
        },
    )
}

/// The same in the upper half of an AVX register, which the state that every processor has does not hold.
fn upper_halves_stay() -> Result<Completion, Failed> {
    if machine(1)?.cpuid.xcr0() & 1 << 2 == 0 {
        return Ok(Completion::ignored_with(
            "guests get no AVX here: the host does not switch its registers",
        ));
    }
    let mut code = vec![
        0xc4, 0xe3, 0x7d, 0x39, 0xd9, 0x01, // vextracti128 xmm1, ymm3, 1
        0xc5, 0xf1, 0xd4, 0xcc, // vpaddq xmm1, xmm1, xmm4
        0xc4, 0xe3, 0x65, 0x38, 0xd9, 0x01, // vinserti128 ymm3, ymm3, xmm1, 1
        0xc4, 0xe1, 0xf9, 0x7e, 0xc8, // vmovq rax, xmm1
        0x48, 0xff, 0xc3, // inc rbx
        0x0f, 0x05, // syscall
        0xeb, 0xe4, // jmp to the start
    ];
    code.resize(0x100, 0xcc);
    code.extend([
        0xc5, 0xe5, 0xef, 0xdb, // vpxor ymm3, ymm3, ymm3
        0xc4, 0xe1, 0xf9, 0x6e, 0xe7, // vmovq xmm4, rdi
        0x0f, 0x05, // syscall
    ]);
    let step = |n: usize| n as u64 * 1_000_000 + 7;
    in_turn_under_kicks(
        &code,
        |n, context| {
            context.registers.rip = CODE + 0x100;
            context.registers.rdi = step(n);
        },
        |n, context, exit| {
            check(exit == Exit::Syscall, || format!("vCPU {n}: {exit:?}"))?;
            let registers = &mut context.registers;
            let expected = registers.rbx * step(n);
            check(registers.rbx == 0 || registers.rax == expected, || {
                format!("vCPU {n} after {} rounds: {} instead of {expected}", registers.rbx, registers.rax)
            })?;
            registers.rip = CODE;
            Ok(())
        },
    )?;
    Ok(Completion::Completed)
}

/// Each vCPU loads through FS and GS, whose bases differ.
fn segment_bases_stay_with_their_vcpu() -> Result<(), Failed> {
    // mov rax, fs:[0]; mov rdx, gs:[0]; syscall; jmp to the start
    let mut code = vec![
        0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x65, 0x48, 0x8b, 0x14, 0x25, 0, 0, 0, 0, 0x0f, 0x05, 0xeb,
        0xea,
    ];
    code.resize(0x100, 0xcc);
    for word in 0..4u64 {
        code.extend((word + 100).to_le_bytes());
    }
    in_turn_under_kicks(
        &code,
        |n, context| {
            context.fs_base = CODE + 0x100 + n as u64 * 16;
            context.gs_base = context.fs_base + 8;
        },
        |n, context, exit| {
            check(exit == Exit::Syscall, || format!("vCPU {n}: {exit:?}"))?;
            let seen = (context.registers.rax, context.registers.rdx);
            let expected = (100 + 2 * n as u64, 101 + 2 * n as u64);
            if seen != expected {
                return fail(format!("vCPU {n}: {seen:?} instead of {expected:?}"));
            }
            Ok(())
        },
    )
}
