//! The machine on `/dev/kvm`.
//!
//! The nine rules that experiments on real hosts taught, and where each is kept:
//!
//! 1. A pending access is finished before anything is loaded: [`run::Run::complete`]; exempt are the stub's own
//!    `out`s and a 4-byte store to a doorbell, after which KVM has nothing left to do.
//! 2. Exceptions can be pending at an interruption: [`pcpu`] runs on until they were delivered.
//! 3. Most kicks land in the stub: [`pcpu`] gives such an entry up and makes it again; every word that the stub
//!    was told is still in the context.
//! 4. Nothing enters CPL0 but by the IDT: [`entry`]. The few exceptions that can come there have stacks of their own
//!    ([`descriptors`]), and one sanitising function stands before every `iretq` (`machine/sanitise.rs`). Breakpoints reach no
//!    address of the hypervisor's, and one that comes late is taken for what it interrupted ([`exception`]). No test host
//!    can show all of this; it is kept by review.
//! 5. Flushing cannot be tested on emulated SVM: the model in [`super::fake`] is where its logic is tested.
//! 6. Shootdown: [`shootdown`]; that a flush loads the root: [`way_in`].
//! 7. Invalidation needs a shared, unmerged, unlocked, small-page mapping: [`super::MachineMemory`].
//! 8. A direct map exists in no root that a guest runs on: [`scribe`].
//! 9. All host writes to guest memory go through one door: [`super::MachineMemory`].

mod area;
pub mod bare;
mod cpuid;
mod descriptors;
mod device;
mod doorbells;
mod entry;
mod exception;
mod fpu;
mod gate;
#[allow(clippy::indexing_slicing, reason = "five words or six, of six")]
mod pcpu;
mod presence;
mod probe;
mod registers;
mod run;
mod scribe;
mod shootdown;
pub mod smallest;
mod stub;
mod translations;
mod vm;
mod way_in;

pub use cpuid::CpuidAnswer;
pub use gate::Gate;
pub use pcpu::{KvmPcpu, host_tsc};
pub use probe::{GateCost, KvmKind, ProbeReport, TableWay};
pub use shootdown::Shared;
pub use vm::HostError;

#[cfg(test)]
pub use translations::Flush as TestedFlush;

use super::cpuid::{Leaf, MachineCpuid};
use super::{Doorbells, Layout, MachineMemory, Translations};
use area::{Area, DoorbellAddresses};
use doorbells::KvmDoorbells;
use probe::Probe;
use scribe::Scribe;
use std::sync::Arc;
use translations::{Flush, Invalidate};
use vm::EmptyVm;

/// What to make a machine of.
#[derive(Clone, Copy, Debug)]
pub struct MachineConfig {
    /// Pages, the hypervisor's own included ([`frames_needed`]).
    pub frames: u64,
    /// How many pcpus the machine is to have, at least 1.
    pub pcpus: u32,
    /// CPUID leaves beside the processor's, or in place of them: made from those, and the TSC's rate in kHz.
    pub leaves: fn(&MachineCpuid, u32) -> Vec<Leaf>,
}

/// Frames that the hypervisor takes of a machine of `frames` pages with `pcpus` pcpus.
pub const fn frames_needed(frames: u64, pcpus: u32) -> u64 {
    Area::new(frames, pcpus as u64, DoorbellAddresses::HIGHEST).frames_needed()
}

/// Pages that a machine can have, on a host whose processors do not limit it further.
pub const MOST_FRAMES: u64 = DoorbellAddresses::HIGHEST.most_frames();

/// A machine, its pcpus not yet running.
#[derive(Debug)]
pub struct KvmMachine {
    /// The memory of the machine.
    pub memory: Arc<MachineMemory>,
    /// Where the hypervisor's things are.
    pub layout: Arc<Layout>,
    /// How changed tables take effect.
    pub translations: Arc<dyn Translations>,
    /// Stores that ring bells of the host.
    pub doorbells: Arc<dyn Doorbells>,
    /// Its pcpus, each to be moved to a thread of its own, and what kicks them.
    pub pcpus: Vec<(KvmPcpu, Arc<Shared>)>,
    /// The leaves of `cpuid` that guests get.
    pub cpuid: MachineCpuid,
    /// What the probes found.
    pub report: ProbeReport,
    area: Area,
    probe_runs: u64,
}

impl KvmMachine {
    /// Makes the machine and probes the host.
    ///
    /// # Errors
    /// [`HostError`]: what is missing, or which probe failed.
    pub fn new(config: MachineConfig) -> Result<Self, HostError> {
        let vm = EmptyVm::new(config.leaves)?;
        shootdown::install_kick_handler()?;
        let doorbells = vm.doorbells();
        if config.frames > doorbells.most_frames() {
            return Err(HostError::TooLarge { frames: config.frames, most: doorbells.most_frames() });
        }
        let area = Area::new(config.frames, u64::from(config.pcpus), doorbells);
        let memory = Arc::new(MachineMemory::new(config.frames)?);
        let vcpus = u64::from(config.pcpus) + 1;
        vm::write_area(&memory, &area, vcpus)?;
        let vm = vm.map(Arc::clone(&memory))?;

        let mut pcpus = Vec::new();
        for number in 0..u64::from(config.pcpus) {
            let pages = area.pcpu(number);
            let (run, sregs) = vm.create_vcpu(number, area.scribe_root(), &pages)?;
            let shared = Arc::new(Shared::new(Arc::clone(run.mapping())));
            pcpus.push(KvmPcpu::new(run, Arc::clone(&memory), shared, pages, doorbells, sregs)?);
        }
        let (scribe, _) = vm.create_vcpu(vcpus - 1, area.scribe_root(), &area.scribe())?;
        let scribe = Scribe::new(scribe, Arc::clone(&memory), &area);
        let shared = pcpus.iter().map(|pcpu| Arc::clone(pcpu.shared())).collect();

        let mut report = probe_kind(&memory, &area, &mut pcpus)?;
        let flush = Flush::new(shared);
        let invalidate = Invalidate::new(Arc::clone(&memory), scribe);
        let (tables, translations) =
            choose_tables(&memory, &area, &mut pcpus, report.kvm, flush, invalidate)?;
        report.tables = tables;

        let layout = area.layout(report.m2p_at_fixed_address, report.gate.hypercall_page());
        let kicks: Vec<_> = pcpus.iter().map(|pcpu| Arc::clone(pcpu.shared())).collect();
        Ok(Self {
            memory,
            layout: Arc::new(layout),
            translations,
            doorbells: Arc::new(KvmDoorbells::new(vm.descriptor(), doorbells)),
            pcpus: pcpus.into_iter().zip(kicks).collect(),
            cpuid: vm.cpuid(&report),
            report,
            area,
            // One to find out the kind, and at most one for each way.
            probe_runs: 3,
        })
    }

    /// Runs the start-up probe of a way of changing tables, on every pcpu.
    ///
    /// # Errors
    /// The host's; what the probe saw instead of what it should is the inner error.
    pub fn probe_tables(&mut self, way: &dyn Translations) -> Result<Result<(), String>, HostError> {
        let run = self.probe_runs;
        self.probe_runs += 1;
        try_tables(&self.memory, &self.area, run, self.pcpus.iter_mut().map(|(pcpu, _)| pcpu), way)
    }
}

/// Everything that can be found out before a way of changing tables is chosen.
fn probe_kind(memory: &MachineMemory, area: &Area, pcpus: &mut [KvmPcpu]) -> Result<ProbeReport, HostError> {
    let mut probe = Probe::new(memory, area, 0)?;
    let Some(first) = pcpus.first_mut() else {
        return Err(HostError::Lacks("a pcpu to probe (the machine was configured with none)"));
    };
    let kvm = probe.kind(first)?;
    let gates = probe.gates(first)?;
    let gate = gates.iter().min_by_key(|cost| cost.round_trip_ns).map_or(Gate::Syscall, |cost| cost.gate);
    let m2p_at_fixed_address = probe.m2p_at_fixed_address(first)?;
    let tsc_khz = first.tsc_khz()?;
    let cpuid = probe.cpuid(first)?;
    let fsgsbase = probe.runs_fsgsbase(first)?;
    let raises_nm = probe.raises_nm(first)?;
    let ibpb = first.has_ibpb();
    let mut tsc_offsets = Vec::new();
    for pcpu in pcpus {
        probe.entries(pcpu)?;
        let offset = probe.tsc_offset(pcpu)?;
        pcpu.set_tsc_offset(offset);
        tsc_offsets.push(offset as i64);
        probe.leave(pcpu)?;
    }
    Ok(ProbeReport {
        kvm,
        tables: TableWay::Flush,
        gates,
        gate,
        m2p_at_fixed_address,
        tsc_offsets,
        tsc_khz,
        ibpb,
        cpuid,
        fsgsbase,
        raises_nm,
    })
}

/// The first way of changing tables that holds on every pcpu.
///
/// Invalidation reaches what KVM derived from the tables, not what a CPU that walks them by itself has cached of
/// the upper levels: on hardware KVM it would pass the probe and not be enough, so there it is not tried.
fn choose_tables(
    memory: &MachineMemory,
    area: &Area,
    pcpus: &mut [KvmPcpu],
    kvm: KvmKind,
    flush: Flush,
    invalidate: Invalidate,
) -> Result<(TableWay, Arc<dyn Translations>), HostError> {
    let ways: [(TableWay, KvmKind, Arc<dyn Translations>); 2] = [
        (TableWay::Flush, kvm, Arc::new(flush)),
        (TableWay::Invalidate, KvmKind::Software, Arc::new(invalidate)),
    ];
    let mut reasons = Vec::new();
    let ways = ways.into_iter().filter(|(_, only_on, _)| *only_on == kvm);
    for (run, (way, _, translations)) in (1..).zip(ways) {
        match try_tables(memory, area, run, pcpus.iter_mut(), &*translations)? {
            Ok(()) => return Ok((way, translations)),
            Err(why) => reasons.push(format!("{way:?}: {why}").to_lowercase()),
        }
    }
    Err(HostError::Probe { probe: "tables", why: reasons.join("; ") })
}

fn try_tables<'a>(
    memory: &MachineMemory,
    area: &Area,
    run: u64,
    pcpus: impl Iterator<Item = &'a mut KvmPcpu>,
    translations: &dyn Translations,
) -> Result<Result<(), String>, HostError> {
    let mut probe = Probe::new(memory, area, run)?;
    for pcpu in pcpus {
        let verdict = probe.try_tables(pcpu, translations);
        probe.leave(pcpu)?;
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}
