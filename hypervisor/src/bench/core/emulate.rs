//! Rows about instructions that are carried out for a guest: `emulate`, `writable-page-table`.

use super::calls::{bare, floor};
use crate::bench::floor::{FAULT, Touch, Trapping, Way};
use crate::bench::guest::Laboratory;
use crate::bench::image::{BASE, GATE, MAPS, Program, UNMAPS};
use crate::bench::mock::Mock;
use crate::bench::sampling::pairs;
use crate::bench::site::{FIRST_TABLE, Frames, MACHINE_FRAMES};
use crate::bench::{BenchError, Row, Sink};
use pv_abi::trap::Vector;

/// Instructions that make one sample.
const BATCH: u64 = 16;
/// Stores that make one sample: of entries one behind the other.
const STORES: u64 = 64;

const fn privileged(before: &'static [u8], instruction: &'static [u8]) -> Trapping {
    Trapping { before, instruction, vector: Vector::GENERAL_PROTECTION }
}

/// Those that are measured. They change nothing but RAX, RCX and RDX.
const INSTRUCTIONS: [(&str, Trapping); 4] = [
    ("cli", privileged(&[], &[0xfa])),
    // Port 0x80, of which nobody is the owner.
    ("in", privileged(&[], &[0xe4, 0x80])),
    ("mov-from-cr0", privileged(&[], &[0x0f, 0x20, 0xc0])),
    // With `mov ecx, 0xc0000080` before it: IA32_EFER.
    ("rdmsr", privileged(&[0xb9, 0x80, 0x00, 0x00, 0xc0], &[0x0f, 0x32])),
];

/// Measures the rows. The guest's gate is another afterwards.
pub fn run(laboratory: &Laboratory, count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    laboratory.run(Program::EmulateSetup, 1, &[])?;
    for (name, trapping) in INSTRUCTIONS {
        sink(emulate(laboratory, name, trapping, count)?);
    }
    sink(writable_page_table(laboratory, count)?);
    Ok(())
}

/// An instruction that traps and is carried out, against the same trap on the bare VM, where it is skipped.
fn emulate(laboratory: &Laboratory, name: &str, trapping: Trapping, count: usize) -> Result<Row, BenchError> {
    let way = Way::Exception(trapping);
    laboratory.site.poke(GATE, &way.code())?;
    let mut floor = floor(laboratory, way)?;
    let ours = || Ok(laboratory.run(Program::Trap, BATCH, &[])?[0] / BATCH as f64);
    let pairs = pairs(count, ours, || bare(&mut floor))?;
    Ok(Row::paired(format!("core/emulate/{name}"), &pairs).aiming_at(1.15))
}

/// A store that maps a page, against a page fault on the bare VM and a mock update.
fn writable_page_table(laboratory: &Laboratory, count: usize) -> Result<Row, BenchError> {
    laboratory.site.write_lists(STORES, Frames::Contiguous)?;
    let words = [FIRST_TABLE, BASE + MAPS, BASE + UNMAPS];
    let ours = || Ok(laboratory.run(Program::Store, STORES, &words)?[0] / STORES as f64);
    let mut floor = floor(laboratory, Way::Exception(FAULT))?;
    let (mock, updates) = (Mock::new(MACHINE_FRAMES), super::mmu::mock_updates(STORES));
    let floor = || {
        let mut updates = updates.chunks(1).cycle();
        let store = |_: &mut _| {
            std::hint::black_box(mock.apply(std::hint::black_box(updates.next().unwrap_or_default())));
            Ok(())
        };
        Ok(floor.round_trips(STORES, Touch::default(), store)? / STORES as f64)
    };
    Ok(Row::paired("core/writable-page-table", &pairs(count, ours, floor)?))
}
