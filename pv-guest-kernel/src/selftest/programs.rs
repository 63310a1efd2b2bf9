//! User programs: what they can do, how they end, and that nothing is left of them.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::report::Report;
use crate::memory;
use crate::sched::vcpus;
use crate::time::{self, MILLISECOND};
use crate::user::process::{self, Outcome, Process};
use crate::user::program;

pub async fn run(report: &mut Report) {
    let free = memory::free_frames();
    ordinary(report).await;
    faults(report).await;
    together(report).await;
    killing(report).await;
    report.equal("free frames after all programs", memory::free_frames(), free);
}

fn start(name: &str, argument: u64) -> Option<Arc<Process>> {
    process::start(program::find(name)?, argument, true).ok()
}

/// Runs a program to its end: how it ended, and what it wrote.
async fn end_of(name: &str, argument: u64) -> (Outcome, String) {
    let Some(process) = start(name, argument) else {
        return (Outcome::Exited(u64::MAX), String::new());
    };
    let outcome = process.outcome().await;
    (outcome, process.captured.as_ref().map_or(String::new(), |text| text.with(core::mem::take)))
}

async fn ordinary(report: &mut Report) {
    for (name, argument, text) in [
        ("hello", 0, "hello from user mode\n"),
        ("count", 2, "1\n2\n"),
        ("int80", 0, "hello by int 0x80\n"),
        ("bad-pointer", 0, ""),
        ("eat-memory", 0, ""),
    ] {
        report.equal(
            &alloc::format!("user program {name}"),
            end_of(name, argument).await,
            (Outcome::Exited(0), text.into()),
        );
    }
}

/// The programs that misbehave, and the vector and the error code that each has to be stopped by. The
/// error code of `int n` is not compared: emulated processors get it wrong.
async fn faults(report: &mut Report) {
    for (name, vector, error) in [
        ("fault-null", 14, Some(4)),
        ("fault-read-kernel", 14, Some(4)),
        ("fault-write-kernel", 14, Some(6)),
        ("fault-write-code", 14, Some(7)),
        ("fault-execute-data", 14, Some(0x15)),
        ("fault-stack", 14, Some(6)),
        ("fault-privileged", 13, Some(0)),
        ("fault-port", 13, Some(0)),
        ("fault-msr", 13, Some(0)),
        ("fault-control-register", 13, Some(0)),
        ("fault-jump-noncanonical", 13, Some(0)),
        ("fault-divide", 0, Some(0)),
        ("fault-undefined", 6, Some(0)),
        ("fault-breakpoint", 3, Some(0)),
        ("fault-int21", 13, None),
    ] {
        let (outcome, _) = end_of(name, 0).await;
        let ok = matches!(&outcome, Outcome::Faulted(fault)
            if fault.vector == vector && error.is_none_or(|error| fault.error == error));
        report.check(&alloc::format!("user program {name}"), ok, outcome);
    }
}

/// Programs that have to be preempted, each with a state of its own.
async fn together(report: &mut Report) {
    // As many that each vCPU has several.
    let count = 3 * vcpus::count();
    let processes: Vec<_> =
        (1..=count as u64).filter_map(|seed| start("vectors", seed * 0x1111_1111)).collect();
    let mut outcomes = Vec::new();
    for process in &processes {
        outcomes.push(process.outcome().await);
    }
    let expected = alloc::vec![Outcome::Exited(0); count];
    report.equal("vector registers of programs at once", outcomes, expected);
    let preempted = processes.iter().map(|process| process.preemptions()).min();
    report.check("preemption of each", preempted > Some(0), format_args!("{preempted:?} times or more"));
}

async fn killing(report: &mut Report) {
    let Some(process) = start("spin", 60_000) else {
        return report.check("a program to kill", false, "cannot start");
    };
    time::sleep(20 * MILLISECOND).await;
    process.kill();
    report.equal("killing a program that never gives way", process.outcome().await, Outcome::Killed);
}
