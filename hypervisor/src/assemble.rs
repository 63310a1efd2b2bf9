//! A hypervisor on the machine that the host offers.

use crate::clock::HostClock;
use crate::control::{Hypervisor, PcpuParts};
use crate::cpuid::CpuidPolicy;
use crate::machine::MachineError;
use crate::machine::kvm::{self, KvmMachine};
use crate::paging::Mmu;
use std::sync::Arc;

impl CpuidPolicy for kvm::CpuidPolicy {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.cpuid(leaf, subleaf)
    }
}

/// Puts the layers on a machine, and starts its pcpus.
///
/// # Errors
/// Where the host gives no threads.
pub fn assemble(machine: KvmMachine) -> Result<Hypervisor, MachineError> {
    let KvmMachine { memory, layout, translations, pcpus, cpuid, report } = machine;
    let mmu = Arc::new(Mmu::new(memory, layout, translations));
    let pcpus = pcpus.into_iter().map(|(pcpu, kick)| -> PcpuParts { (Box::new(pcpu), kick) }).collect();
    let clock = Arc::new(HostClock::new(report.tsc_khz.into()));
    Hypervisor::new(mmu, pcpus, clock, Arc::new(cpuid))
}
