//! Who answers `cpuid` at CPL3, and the machine's policy in KVM's words.
#![allow(unsafe_code)] // `cpuid` of this process

use super::super::cpuid::{Asker, MachineCpuid, Registers};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use serde::Serialize;

/// Who answers a `cpuid` without prefix at CPL3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuidAnswer {
    /// The hypervisor: the instruction faults. Each vCPU gets its own answer.
    Hypervisor,
    /// KVM, with what the machine told it.
    Machine,
    /// The processor: what a guest executes is what that has, and it sees what is hidden from it.
    Processor,
}

/// Leaf 1, EDX: global pages, which every processor has and every policy hides.
const PGE: u32 = 1 << 13;

impl CpuidAnswer {
    /// Who gave this answer to leaf 1.
    pub fn of(leaf_1: Registers) -> Self {
        let [.., edx] = leaf_1;
        if edx & PGE == 0 { Self::Machine } else { Self::Processor }
    }
}

/// What this process's processor answers.
pub fn processor(leaf: u32, subleaf: u32) -> Registers {
    #[allow(unused_unsafe, reason = "newer compilers know that it is safe")]
    // SAFETY: every x86-64 processor has the instruction.
    let answer = unsafe { std::arch::x86_64::__cpuid_count(leaf, subleaf) };
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// What KVM answers for a machine that is told `supported`.
pub fn kvm(supported: &CpuId) -> impl Fn(u32, u32) -> Registers {
    let entries = supported.as_slice().to_vec();
    move |leaf, subleaf| {
        let fits = |entry: &&kvm_cpuid_entry2| {
            let any_index = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0;
            entry.function == leaf && (any_index || entry.index == subleaf)
        };
        entries.iter().find(fits).map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }
}

/// A policy for KVM_SET_CPUID2: the same for all vCPUs of the machine, and so with no topology. None where it has more
/// leaves than KVM takes.
pub fn to_kvm(policy: &MachineCpuid) -> Option<CpuId> {
    let entries =
        policy.leaves(Asker::ALONE).map(|((function, index), [eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
            function,
            index,
            flags: if MachineCpuid::has_subleaves(function) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        });
    CpuId::from_entries(&entries.collect::<Vec<_>>()).ok()
}
