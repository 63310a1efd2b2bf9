//! What `cpuid` without prefix answers at CPL3, and what a vCPU's own control registers do there.

use crate::guest::{CODE, Guest, enter, machine};
use crate::support::{check, kvm_test, skippable_kvm_test};
use hypervisor::machine::cpuid::Asker;
use hypervisor::machine::kvm::{CpuidAnswer, KvmKind};
use hypervisor::machine::{Context, Exit, Pcpu};
use libtest_mimic::{Completion, Failed, Trial};
use std::sync::Arc;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("cpuid/plain is what was told, or faults", plain_is_what_was_told),
        skippable_kvm_test("cpuid/FS and GS bases by instructions", bases_by_instructions),
        skippable_kvm_test("cpuid/the FPU's use while TS is set", task_switched),
    ]
}

/// Who answers does it as the probe found out: the hypervisor gets a fault; KVM says what it was told; and the processor
/// has what the table was applied to, so that nothing is shown that it lacks.
fn plain_is_what_was_told() -> Result<(), Failed> {
    let mut machine = machine(1)?;
    let memory = Arc::clone(&machine.memory);
    let guest = Guest::new(&machine, 0, &[0x0f, 0xa2, 0x89, 0xce, 0x0f, 0x05])?; // cpuid; mov esi, ecx; syscall
    let (policy, answers) = (machine.cpuid.clone(), machine.report.cpuid);
    let (mut pcpu, _) = machine.pcpus.remove(0);
    let mut context = guest.context(1);
    let mut ask = |leaf: u32, subleaf: u32| -> Result<[u32; 4], Failed> {
        let registers = &mut context.registers;
        (registers.rip, registers.rax, registers.rcx) = (CODE, leaf.into(), subleaf.into());
        let exit = enter(&memory, &mut pcpu, &mut context)?;
        let found = &context.registers;
        if answers == CpuidAnswer::Hypervisor {
            let faults = matches!(exit, Exit::Exception { vector: 13, .. }) && found.rip == CODE;
            check(faults, || format!("leaf {leaf:#x}: {exit:?} at {:#x}", found.rip))?;
            return Ok(policy.seen_by(Asker::ALONE, leaf, subleaf));
        }
        check(exit == Exit::Syscall, || format!("leaf {leaf:#x}: {exit:?}"))?;
        Ok([found.rax, found.rbx, found.rsi, found.rdx].map(|register| register as u32))
    };
    if answers != CpuidAnswer::Processor {
        for ((leaf, subleaf), told) in policy.leaves(Asker::ALONE) {
            let found = ask(leaf, subleaf)?;
            check(found == told, || format!("{leaf:#x}.{subleaf}: {found:#x?} instead of {told:#x?}"))?;
        }
        return Ok(());
    }
    let passed = policy.told(Asker::ALONE);
    let mut compared = 0;
    for told in passed.iter().filter(|told| told.made_up.is_none()) {
        let n = ["EAX", "EBX", "ECX", "EDX"].iter().position(|name| *name == told.register);
        let n = n.ok_or("a register without a name")?;
        let hidden = told.hidden.iter().fold(0, |mask, feature| mask | 1 << feature.bit);
        let found = ask(told.leaf, told.subleaf)?[n];
        check(told.guest == found & !hidden, || format!("{told:#x?} where the processor has {found:#x}"))?;
        compared += 1;
    }
    check(compared > 20, || format!("hardly anything is passed: {compared}"))
}

/// While a vCPU's TS is set, its use of the FPU is #NM, and the next vCPU has what it wants itself.
fn task_switched() -> Result<Completion, Failed> {
    let mut machine = machine(1)?;
    let (raises_nm, kvm) = (machine.report.raises_nm, machine.report.kvm);
    check(raises_nm == (kvm == KvmKind::Hardware), || format!("the probe found {raises_nm} on {kvm:?} KVM"))?;
    if !raises_nm {
        return Ok(Completion::ignored_with("this host raises no #NM at CPL3, and guests cannot set CR0.TS"));
    }
    let code = [0xd9, 0xd0, 0x0f, 0x05]; // fnop; syscall
    let guests = [Guest::new(&machine, 0, &code)?, Guest::new(&machine, 1, &code)?];
    let memory = Arc::clone(&machine.memory);
    let (mut pcpu, _) = machine.pcpus.remove(0);
    let mut contexts = [guests[0].context(1), guests[1].context(2)];
    for round in 0..20 {
        // Of vCPU 1 it changes while it is loaded, too.
        for (n, set) in [(0, true), (1, round % 4 < 2), (1, round % 2 == 0)] {
            let context: &mut Context = &mut contexts[n];
            context.task_switched = set;
            context.registers.rip = CODE;
            let exit = enter(&memory, &mut pcpu, context)?;
            let expected = match exit {
                Exit::Exception { vector: 7, .. } => set && context.registers.rip == CODE,
                Exit::Syscall => !set,
                _ => false,
            };
            check(expected, || format!("vCPU {n}, round {round}, {set}: {exit:?} {context:x?}"))?;
        }
        pcpu.save(&mut contexts[1])?;
    }
    Ok(Completion::Completed)
}

/// Where guests find FSGSBASE, it works for a vCPU whose kernel switched it on, and the next one has what it wants itself.
fn bases_by_instructions() -> Result<Completion, Failed> {
    let mut machine = machine(1)?;
    if machine.cpuid.cpuid(7, 0)[1] & 1 == 0 {
        return Ok(Completion::ignored_with(
            "this host does not run FSGSBASE at CPL3, and guests do not find it",
        ));
    }
    let code = [
        0xf3, 0x48, 0x0f, 0xae, 0xd7, // wrfsbase rdi
        0xf3, 0x48, 0x0f, 0xae, 0xc0, // rdfsbase rax
        0x0f, 0x05, // syscall
    ];
    let guests = [Guest::new(&machine, 0, &code)?, Guest::new(&machine, 1, &code)?];
    let memory = Arc::clone(&machine.memory);
    let honours = machine.report.kvm == KvmKind::Hardware;
    let (mut pcpu, _) = machine.pcpus.remove(0);
    let mut contexts = [guests[0].context(1), guests[1].context(2)];
    for round in 1..20u64 {
        // Vcpu 0 always has it; vCPU 1 in every other round, and so it changes on a vCPU that is loaded, too.
        for (n, wants) in [(0, true), (1, round % 4 < 2), (1, round % 2 == 0)] {
            let context: &mut Context = &mut contexts[n];
            context.fsgsbase = wants;
            let base = 0x1000 * round + n as u64;
            (context.registers.rip, context.registers.rdi, context.registers.rax) = (CODE, base, 0);
            let exit = enter(&memory, &mut pcpu, context)?;
            let expected = match exit {
                Exit::Syscall if wants || !honours => {
                    context.registers.rax == base && context.fs_base == base
                }
                Exit::Exception { vector: 6, .. } => !wants && context.registers.rip == CODE,
                _ => false,
            };
            check(expected, || format!("vCPU {n}, round {round}, {wants}: {exit:?} {context:x?}"))?;
        }
        pcpu.save(&mut contexts[1])?;
    }
    Ok(Completion::Completed)
}
