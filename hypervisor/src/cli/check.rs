//! `paravane check`: what this host is like.

use super::args::CheckArgs;
use super::fit::needed_frames;
use super::status::{Failure, Status};
use super::stdout::print;
use hypervisor::assemble;
use hypervisor::machine::kvm::{HostError, KvmKind, ProbeReport, TableWay};
use serde::Serialize;

/// What a program gets to read.
#[derive(Serialize)]
struct Verdict<'a> {
    /// Whether guests can be run.
    usable: bool,
    /// What is missing, and how to get it.
    missing: Option<String>,
    /// What the probes found.
    probes: Option<&'a ProbeReport>,
}

/// Makes the smallest machine there is, and tells what its probes found.
pub fn check(args: &CheckArgs) -> Result<Status, Failure> {
    let report = probe();
    let text = match (&report, args.json) {
        (Ok(report), false) => describe(report),
        (Err(_), false) => String::new(),
        (report, true) => json(report)?,
    };
    let _ = print(text)?;
    match report {
        Ok(_) => Ok(Status::Fine),
        Err(_) if args.json => Ok(Status::Configuration),
        Err(error) => Err(Failure::new(error)),
    }
}

fn probe() -> Result<ProbeReport, HostError> {
    let frames = needed_frames(1, 1);
    assemble::machine(frames, 1).map(|machine| machine.report)
}

fn json(report: &Result<ProbeReport, HostError>) -> Result<String, Failure> {
    let missing = report.as_ref().err().map(ToString::to_string);
    let verdict = Verdict { usable: report.is_ok(), missing, probes: report.as_ref().ok() };
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

fn describe(report: &ProbeReport) -> String {
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
    format!(
        "KVM:          {}\npage tables:  {tables}\ngates:        {}; the hypercall page uses {}\nM2P:          {m2p}\n\
         TSC:          {:.3} GHz\npredictor:    {ibpb}\nmissing:      nothing\n",
        kind(report),
        gates.collect::<Vec<_>>().join(", "),
        report.gate,
        f64::from(report.tsc_khz) / 1e6,
    )
}
