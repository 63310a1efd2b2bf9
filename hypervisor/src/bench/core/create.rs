//! Rows about making things: `create/machine`, `create/domain`.

use crate::assemble::{assemble, machine as make_machine};
use crate::bench::guest::{Line, end};
use crate::bench::sampling::{pairs, samples};
use crate::bench::site::{LEAST_PAGES, plain};
use crate::bench::{BenchError, Row, Sink};
use crate::control::Hypervisor;
use crate::machine::kvm::smallest::first_instruction;
use std::time::Instant;

/// Frames of the machine: 16 MiB.
const FRAMES: u64 = 4096;
const MILLISECOND: f64 = 1e6;

/// A machine of 16 MiB and the smallest domain on it, until that makes itself heard by its first hypercall; against
/// a KVM VM with as much memory, until its first instruction.
pub fn machine(count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    let ours = || {
        let start = Instant::now();
        let hypervisor = assemble(make_machine(FRAMES, 1)?)?;
        first_hypercall(&hypervisor, start)
    };
    let floor = || {
        let start = Instant::now();
        Ok(first_instruction(FRAMES)?.duration_since(start).as_nanos() as f64)
    };
    sink(Row::paired("core/create/machine", &pairs(count, ours, floor)?).aiming_at(1.25));
    Ok(())
}

/// The smallest domain, in a machine that runs, until its first hypercall: from memory that nobody has used, and from
/// that of a domain before it, which has to be cleared.
pub fn domain(count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    let running = || -> Result<Hypervisor, BenchError> { Ok(assemble(make_machine(FRAMES, 1)?)?) };
    let fresh = || first_hypercall(&running()?, Instant::now());
    sink(Row::alone("core/create/domain", &samples(count, fresh)?).aiming_at(0.15 * MILLISECOND));
    let hypervisor = running()?;
    let again = || first_hypercall(&hypervisor, Instant::now());
    sink(Row::alone("core/create/domain-again", &samples(count, again)?));
    Ok(())
}

/// Nanoseconds from `start` until a new domain makes its first hypercall. The domain is gone afterwards.
fn first_hypercall(hypervisor: &Hypervisor, start: Instant) -> Result<f64, BenchError> {
    let (line, console) = Line::new();
    let (domain, state, _) = plain(hypervisor, LEAST_PAGES, &[], console)?;
    hypervisor.start(&domain, &state)?;
    let heard = line.ready();
    drop(line); // so that it does not wait for a command
    end(hypervisor, &domain);
    Ok(heard?.duration_since(start).as_nanos() as f64)
}
