//! `paravane check`: what this host is like.

use super::args::CheckArgs;
use crate::cli::guests::fit::needed_frames;
use crate::cli::printing::stdout::print;
use crate::cli::status::{Failure, Status};
use hypervisor::assemble;
use hypervisor::machine::cpuid::{Asker, HiddenFeature, MachineCpuid, Told};
use hypervisor::machine::kvm::{CpuidAnswer, HostError, KvmKind, KvmMachine, ProbeReport, TableWay};
use serde::Serialize;

/// The bit of XCR0 for AVX; then those that AVX-512 needs, with x87, SSE and AVX.
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 0xe7;

/// What a program gets to read.
#[derive(Serialize)]
struct Verdict<'a> {
    /// Whether guests can be run.
    usable: bool,
    /// What is missing, and how to get it.
    missing: Option<String>,
    /// What the probes found.
    probes: Option<&'a ProbeReport>,
    /// What became of each register of CPUID, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuid: Option<Vec<Told>>,
}

/// Makes the smallest machine there is, and tells what its probes found.
pub fn check(args: &CheckArgs) -> Result<Status, Failure> {
    let machine = probe();
    let text = match (&machine, args.json) {
        (Ok(machine), false) if args.cpuid => describe(machine) + &describe_cpuid(&machine.cpuid),
        (Ok(machine), false) => describe(machine),
        (Err(_), false) => String::new(),
        (machine, true) => json(machine, args.cpuid)?,
    };
    let _ = print(text)?;
    match machine {
        Ok(_) => Ok(Status::Fine),
        Err(_) if args.json => Ok(Status::Configuration),
        Err(error) => Err(Failure::new(error)),
    }
}

fn probe() -> Result<KvmMachine, HostError> {
    assemble::machine(needed_frames(1, 1), 1)
}

fn json(machine: &Result<KvmMachine, HostError>, with_cpuid: bool) -> Result<String, Failure> {
    let missing = machine.as_ref().err().map(ToString::to_string);
    let machine = machine.as_ref().ok();
    let cpuid = machine.filter(|_| with_cpuid).map(|machine| machine.cpuid.told(Asker::ALONE));
    let probes = machine.map(|machine| &machine.report);
    let verdict = Verdict { usable: machine.is_some(), missing, probes, cpuid };
    let text = serde_json::to_string_pretty(&verdict).map_err(Failure::new)?;
    Ok(text + "\n")
}

/// The kind of KVM in a few words.
pub fn kind(report: &ProbeReport) -> &'static str {
    match report.kvm {
        KvmKind::Hardware => "hardware KVM (VMX or SVM)",
        KvmKind::Software => "software KVM (no VMX or SVM; shadow paging)",
    }
}

fn describe(machine: &KvmMachine) -> String {
    let report = &machine.report;
    let tables = match report.tables {
        TableWay::Flush => "written by the host, flushed by each pcpu",
        TableWay::Invalidate => "written by the host, forgotten by KVM at the host's request",
    };
    let gates =
        report.gates.iter().map(|cost| format!("{} {:.1} µs", cost.gate, cost.round_trip_ns as f64 / 1e3));
    let m2p = match report.m2p_at_fixed_address {
        true => "at Xen's fixed address",
        false => "elsewhere; reads at Xen's fixed address are emulated",
    };
    let ibpb = match report.ibpb {
        true => "cleared between two vCPUs (IBPB)",
        false => "not cleared between vCPUs: the host offers no IBPB",
    };
    let cpuid = match report.cpuid {
        CpuidAnswer::Hypervisor => "answered by the hypervisor, with Xen's prefix and without",
        CpuidAnswer::Machine => "without Xen's prefix KVM answers the same, but for the topology",
        CpuidAnswer::Processor => {
            "without Xen's prefix the processor answers, and shows what guests are not to use"
        }
    };
    let vectors = match machine.cpuid.xcr0() {
        all if all & AVX_512 == AVX_512 => "SSE, AVX, AVX-512",
        some if some & AVX != 0 => "SSE, AVX",
        _ => "SSE only: this host keeps no more of a vCPU's registers, or has no more",
    };
    let bases = match (report.fsgsbase, report.cpuid) {
        (false, _) => "set by hypercalls only: the host does not run FSGSBASE at CPL3",
        (true, CpuidAnswer::Processor) => "set by guests (FSGSBASE), whether their kernel permits it or not",
        (true, _) => "set by guests (FSGSBASE) whose kernel permits it",
    };
    let fpu = match report.raises_nm {
        true => "a kernel can ask for #NM at the next use of the FPU (CR0.TS)",
        false => "no kernel can set CR0.TS: the host raises no #NM",
    };
    format!(
        "KVM:          {}\npage tables:  {tables}\ngates:        {}; the hypercall page uses {}\nM2P:          {m2p}\n\
         TSC:          {:.3} GHz\npredictor:    {ibpb}\ncpuid:        {cpuid}\nvectors:      {vectors}\nFS, GS bases: {bases}\nFPU:          {fpu}\nmissing:      nothing\n",
        kind(report),
        gates.collect::<Vec<_>>().join(", "),
        report.gate,
        f64::from(report.tsc_khz) / 1e6,
    )
}

/// The table of CPUID, as the only vCPU of a domain sees it.
fn describe_cpuid(cpuid: &MachineCpuid) -> String {
    let mut text = format!("\n{:<14}{:<10}{:<11}{}\n", "leaf", "register", "processor", "guests");
    let mut last = None;
    for told in cpuid.told(Asker::ALONE) {
        let leaf = (told.leaf, told.subleaf);
        if last.replace(leaf) != Some(leaf) {
            text += &format!("{:<14}{}\n", format!("{:#x}.{}", told.leaf, told.subleaf), told.about);
        }
        let made_up = told.made_up.filter(|_| told.processor != told.guest);
        let line = format!("{:<14}{:<10}{:08x}   {:08x}", "", told.register, told.processor, told.guest);
        text += &made_up.map_or_else(|| line.clone(), |how| format!("{line}   {how}"));
        text.push('\n');
        for (why, names) in by_reason(&told.hidden) {
            text += &format!("{:<24}hidden: {}: {why}\n", "", names.join(" "));
        }
    }
    text
}

/// Reasons in the order of their first feature, and the names of all that have them.
fn by_reason(hidden: &[HiddenFeature]) -> Vec<(&'static str, Vec<String>)> {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for feature in hidden {
        let name = match feature.name {
            "" => format!("bit {}", feature.bit),
            name => name.to_owned(),
        };
        match reasons.iter_mut().find(|(why, _)| *why == feature.why) {
            Some((_, names)) => names.push(name),
            None => reasons.push((feature.why, vec![name])),
        }
    }
    reasons
}
