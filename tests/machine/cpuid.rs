//! What `cpuid` without prefix answers at CPL3.

use crate::guest::{CODE, Guest, enter, machine};
use crate::support::{check, skippable_kvm_test};
use hypervisor::machine::Exit;
use hypervisor::machine::cpuid::Place;
use hypervisor::machine::kvm::CpuidAnswer;
use libtest_mimic::{Completion, Failed, Trial};
use std::sync::Arc;

pub fn tests() -> Vec<Trial> {
    vec![skippable_kvm_test("cpuid/plain is what the machine was told", plain_is_what_was_told)]
}

/// Where KVM answers, it answers what the hypervisor says to whoever asks with the prefix.
fn plain_is_what_was_told() -> Result<Completion, Failed> {
    let mut machine = machine(1)?;
    if machine.report.cpuid == CpuidAnswer::Processor {
        let why = "here the processor itself answers at CPL3, whatever the machine was told";
        return Ok(Completion::ignored_with(why));
    }
    let memory = Arc::clone(&machine.memory);
    let guest = Guest::new(&machine, 0, &[0x0f, 0xa2, 0x89, 0xce, 0x0f, 0x05])?; // cpuid; mov esi, ecx; syscall
    let policy = machine.cpuid.clone();
    let (mut pcpu, _) = machine.pcpus.remove(0);
    let mut context = guest.context(1);
    for ((leaf, subleaf), expected) in policy.leaves(Place::ALONE) {
        let registers = &mut context.registers;
        (registers.rip, registers.rax, registers.rcx) = (CODE, leaf.into(), subleaf.into());
        let exit = enter(&memory, &mut pcpu, &mut context)?;
        check(exit == Exit::Syscall, || format!("{leaf:#x}: {exit:?}"))?;
        let found = &context.registers;
        let found = [found.rax, found.rbx, found.rsi, found.rdx].map(|register| register as u32);
        check(found == expected, || {
            format!("leaf {leaf:#x}, subleaf {subleaf:#x}: {found:#x?} instead of {expected:#x?}")
        })?;
    }
    Ok(Completion::Completed)
}
