//! A hypervisor on the machine that the host offers.

use crate::clock::HostClock;
use crate::control::{Hypervisor, PcpuParts};
use crate::cpuid::hypervisor_leaves;
use crate::machine::MachineError;
use crate::machine::kvm::{HostError, KvmMachine, MachineConfig};
use crate::paging::Mmu;
use std::sync::Arc;
use std::time::Instant;

/// The host's machine of `frames` pages, which answers `cpuid` as the hypervisor does.
///
/// # Errors
/// What the host lacks, or which probe failed.
pub fn machine(frames: u64, pcpus: u32) -> Result<KvmMachine, HostError> {
    let start = Instant::now();
    let machine = KvmMachine::new(MachineConfig { frames, pcpus, leaves: hypervisor_leaves })?;
    let (mebibytes, elapsed, report) = (frames.div_ceil(256), start.elapsed(), &machine.report);
    tracing::debug!(
        "a machine of {mebibytes} MiB and {pcpus} pcpus is ready after {elapsed:.1?}: {:?} KVM, tables by {:?}, gate {}",
        report.kvm,
        report.tables,
        report.gate
    );
    Ok(machine)
}

/// Puts the layers on a machine, and starts its pcpus.
///
/// # Errors
/// Where the host gives no threads.
pub fn assemble(machine: KvmMachine) -> Result<Hypervisor, MachineError> {
    let KvmMachine { memory, layout, translations, doorbells, pcpus, cpuid, report, .. } = machine;
    let mmu = Arc::new(Mmu::new(memory, layout, translations));
    let pcpus = pcpus.into_iter().map(|(pcpu, kick)| -> PcpuParts { (Box::new(pcpu), kick) }).collect();
    let clock = Arc::new(HostClock::new(report.tsc_khz.into()));
    Hypervisor::new(mmu, doorbells, pcpus, clock, Arc::new(cpuid), report.raises_nm)
}
