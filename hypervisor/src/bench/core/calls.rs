//! Rows about going into the hypervisor and back: `null`, `event`, `fault`, `switch`.

use crate::bench::floor::{FAULT, Floor, Touch, Way};
use crate::bench::guest::Laboratory;
use crate::bench::image::{GATE, OPERATIONS, Program};
use crate::bench::sampling::pairs;
use crate::bench::site::SHARED;
use crate::bench::{BenchError, Row, Sink};
use crate::machine::kvm::{Gate, KvmKind};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use zerocopy::IntoBytes;

/// Round trips that make one sample.
const BATCH: u64 = 16;

/// Measures the rows of calls, events, faults and switches, each of `count` pairs, and hands them to `sink`.
pub fn run(laboratory: &Laboratory, count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    for gate in [Gate::Syscall, Gate::Doorbell] {
        sink(null(laboratory, gate, count)?);
    }
    set_gate(laboratory, laboratory.report.gate)?;
    sink(event(laboratory, count)?);
    sink(fault(laboratory, count)?);
    sink(switch(laboratory, count)?);
    Ok(())
}

/// Chooses the gate of the guest's null hypercalls.
pub fn set_gate(laboratory: &Laboratory, gate: Gate) -> Result<(), BenchError> {
    laboratory.site.poke(GATE, &Way::Gate(gate).code())
}

/// A floor without a window.
pub fn floor(laboratory: &Laboratory, way: Way) -> Result<Floor, BenchError> {
    Floor::new(&laboratory.report, way, 0)
}

/// One round trip of a floor that does nothing.
pub fn bare(floor: &mut Floor) -> Result<f64, BenchError> {
    Ok(floor.round_trips(BATCH, Touch::default(), |_| Ok(()))? / BATCH as f64)
}

fn guest(laboratory: &Laboratory, program: Program, words: &[u64]) -> Result<f64, BenchError> {
    Ok(laboratory.run(program, BATCH, words)?[0] / BATCH as f64)
}

/// `xen_version(XENVER_version)` by one gate, against a bare exit and resume by the same.
fn null(laboratory: &Laboratory, gate: Gate, count: usize) -> Result<Row, BenchError> {
    set_gate(laboratory, gate)?;
    let mut floor = floor(laboratory, Way::Gate(gate))?;
    let pairs = pairs(count, || guest(laboratory, Program::Null, &[]), || bare(&mut floor))?;
    let row = Row::paired(format!("core/null/{gate}"), &pairs);
    // On hardware an exit is so short that what is added is told rather than judged.
    Ok(if laboratory.report.kvm == KvmKind::Software { row.aiming_at(1.05) } else { row })
}

/// From `send` on an event channel to itself until the first instruction of the upcall.
fn event(laboratory: &Laboratory, count: usize) -> Result<Row, BenchError> {
    let mut floor = floor(laboratory, Way::Gate(laboratory.report.gate))?;
    laboratory.run(Program::EventSetup, 1, &[])?;
    let pairs = pairs(count, || guest(laboratory, Program::Event, &[SHARED]), || bare(&mut floor))?;
    Ok(Row::paired("core/event/self", &pairs))
}

/// From a page fault in user mode until the first instruction of the kernel's handler.
fn fault(laboratory: &Laboratory, count: usize) -> Result<Row, BenchError> {
    let mut floor = floor(laboratory, Way::Exception(FAULT))?;
    laboratory.run(Program::FaultSetup, 1, &[laboratory.site.other_root().0])?;
    let pairs = pairs(count, || guest(laboratory, Program::Fault, &[]), || bare(&mut floor))?;
    Ok(Row::paired("core/fault/user-kernel", &pairs).aiming_at(1.3))
}

/// `mmuext_op(MMUEXT_NEW_BASEPTR)` with another root each time, against a bare exit and resume that loads one.
fn switch(laboratory: &Laboratory, count: usize) -> Result<Row, BenchError> {
    let mut floor = floor(laboratory, Way::Gate(laboratory.report.gate))?;
    let load = |root| MmuExtOp::new(MmuExtCommand::NEW_BASEPTR, root);
    let operations = [load(laboratory.site.other_root().0), load(laboratory.site.start.root.0)];
    laboratory.site.poke(OPERATIONS, operations.as_bytes())?;
    let mut second = false;
    let mut load_root = |floor: &mut Floor| -> Result<(), BenchError> {
        second = !second;
        floor.load_root(second);
        Ok(())
    };
    let bare = || Ok(floor.round_trips(BATCH, Touch::default(), &mut load_root)? / BATCH as f64);
    let ours = || Ok(laboratory.run(Program::Switch, BATCH / 2, &[])?[0] / BATCH as f64);
    Ok(Row::paired("core/switch/address-space", &pairs(count, ours, bare)?))
}
