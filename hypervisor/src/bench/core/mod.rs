//! The suite `core`: what the hypervisor itself costs.

mod boot;
mod calls;
mod create;
mod mmu;

use super::guest::Laboratory;
use super::{BenchError, Sink};

/// Measures all rows.
pub fn run(pairs: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    {
        let laboratory = Laboratory::new()?;
        calls::run(&laboratory, pairs, sink)?;
        mmu::run(&laboratory, pairs, sink)?;
    }
    create::machine(pairs, sink)?;
    create::domain(pairs, sink)?;
    boot::run(pairs, sink)
}
