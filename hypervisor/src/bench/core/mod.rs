//! The suite `core`: what the hypervisor itself costs.

mod boot;
mod calls;
mod cpu;
mod create;
mod emulate;
mod mmu;

use super::guest::Laboratory;
use super::{BenchError, Settings, Sink};

/// Measures the rows of the suite `core` and hands each to `sink` when it is finished.
pub fn run(settings: &Settings<'_>, sink: Sink<'_>) -> Result<(), BenchError> {
    let pairs = settings.pairs;
    let report = {
        let laboratory = Laboratory::new()?;
        calls::run(&laboratory, pairs, sink)?;
        mmu::run(&laboratory, pairs, sink)?;
        emulate::run(&laboratory, pairs, sink)?;
        laboratory.report.clone()
    };
    cpu::run(pairs, sink)?;
    create::machine(pairs, sink)?;
    create::domain(pairs, sink)?;
    boot::run(settings, &report, sink)
}
