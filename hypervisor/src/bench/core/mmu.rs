//! Rows about page tables: `mmu/validate`, `mmu/update`, `mmu/revoke`, `mmu/revoke-scattered`.

use crate::bench::floor::{Floor, Touch, Way};
use crate::bench::guest::{Laboratory, end};
use crate::bench::image::{BASE, MAPS, Program, UNMAPS, UPDATES};
use crate::bench::mock::Mock;
use crate::bench::sampling::pairs;
use crate::bench::site::{Frames, MACHINE_FRAMES, Site, WINDOW};
use crate::bench::{BenchError, Row, Sink};
use crate::domain::NoConsole;
use crate::error::Failure;
use crate::hypercall::{Outcome, dispatch, resume};
use crate::services::Services;
use crate::vcpu::Vcpu;
use pv_abi::hypercall::HypercallNumber;
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Pte, PteFlags};
use pv_abi::{DomId, Mfn};
use std::sync::Arc;
use std::time::Instant;

/// How many updates a batch has, in one row each.
const COUNTS: [u64; 5] = [1, 8, 64, 512, UPDATES];

/// Measures the rows `core/mmu/...`, each of `count` pairs, and hands them to `sink`.
pub fn run(laboratory: &Laboratory, count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    validate(laboratory, count, sink)?;
    let way = Way::Gate(laboratory.report.gate);
    let mut floor = Floor::new(&laboratory.report, way, UPDATES * Frames::Scattered.stride())?;
    for entries in COUNTS {
        sink(update(laboratory, &mut floor, entries, count)?);
    }
    for (name, frames) in [("revoke", Frames::Contiguous), ("revoke-scattered", Frames::Scattered)] {
        for entries in COUNTS {
            laboratory.site.write_lists(entries, frames)?;
            let floor = || {
                let touch = Touch { pages: entries, stride: frames.stride() };
                floor.round_trips(1, touch, |floor| floor.invalidate(entries, frames))
            };
            let pairs = pairs(count, || Ok(map_and_unmap(laboratory, entries)?[1]), floor)?;
            sink(Row::paired(format!("core/mmu/{name}/{entries}"), &pairs).aiming_at(1.3));
        }
    }
    Ok(())
}

/// The guest maps pages by one `mmu_update`, touches them, and unmaps them by another; nanoseconds of both calls.
fn map_and_unmap(laboratory: &Laboratory, entries: u64) -> Result<[f64; 2], BenchError> {
    laboratory.run(Program::Update, entries, &[WINDOW, BASE + MAPS, BASE + UNMAPS])
}

/// Mapping, end to end, against a bare exit in which the host carries out as many mock updates.
fn update(laboratory: &Laboratory, floor: &mut Floor, entries: u64, count: usize) -> Result<Row, BenchError> {
    laboratory.site.write_lists(entries, Frames::Contiguous)?;
    let (mock, updates) = (Mock::new(MACHINE_FRAMES), mock_updates(entries));
    let stores = |_: &mut Floor| {
        std::hint::black_box(mock.apply(std::hint::black_box(&updates)));
        Ok(())
    };
    let floor = || floor.round_trips(1, Touch::default(), stores);
    let pairs = pairs(count, || Ok(map_and_unmap(laboratory, entries)?[0]), floor)?;
    Ok(Row::paired(format!("core/mmu/update/{entries}"), &pairs).aiming_at(1.5))
}

/// So many updates for a [`Mock`].
pub fn mock_updates(entries: u64) -> Vec<MmuUpdate> {
    let flags = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER;
    (0..entries).map(|n| MmuUpdate { ptr: 0x1000 + n * 8, val: Pte::new(Mfn(2048 + n), flags).0 }).collect()
}

/// The handler alone, from the vCPU's registers to its result, without any exit: nanoseconds of one entry.
fn validate(laboratory: &Laboratory, count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    let hypervisor = &laboratory.hypervisor;
    let site = Site::new(hypervisor, Arc::new(NoConsole))?;
    let measured = validate_rows(hypervisor.services(), &site, count, sink);
    end(hypervisor, &site.domain);
    measured
}

fn validate_rows(services: &Services, site: &Site, count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    let handle = &site.domain.vcpus()[0];
    handle.state().lock().start(&services.mmu, &site.start)?;
    for entries in COUNTS {
        site.write_lists(entries, Frames::Contiguous)?;
        let (mock, updates) = (Mock::new(MACHINE_FRAMES), mock_updates(entries));
        let batches = (512 / entries).max(1); // a clock's reading must not count
        let scale = (entries * batches) as f64;
        let ours = || {
            let mut spent = 0.0;
            for _ in 0..batches {
                let mut vcpu = handle.state().lock();
                let start = Instant::now();
                mmu_update(services, site, &mut vcpu, BASE + MAPS, entries)?;
                spent += start.elapsed().as_nanos() as f64;
                mmu_update(services, site, &mut vcpu, BASE + UNMAPS, entries)?;
            }
            Ok(spent / scale)
        };
        let floor = || {
            let start = Instant::now();
            for _ in 0..batches {
                std::hint::black_box(mock.apply(std::hint::black_box(&updates)));
            }
            Ok(start.elapsed().as_nanos() as f64 / scale)
        };
        let row = Row::paired(format!("core/mmu/validate/{entries}"), &pairs(count, ours, floor)?);
        sink(if entries == 512 { row.aiming_at(4.0) } else { row });
    }
    Ok(())
}

/// Makes the hypercall on behalf of a vCPU that is on no pcpu, to its end.
fn mmu_update(
    services: &Services,
    site: &Site,
    vcpu: &mut Vcpu,
    list: u64,
    entries: u64,
) -> Result<(), BenchError> {
    let (domain, handle) = (&site.domain, &site.domain.vcpus()[0]);
    let registers = &mut vcpu.context.registers;
    registers.rax = HypercallNumber::MMU_UPDATE.0;
    (registers.rdi, registers.rsi, registers.rdx, registers.r10) = (list, entries, 0, DomId::SELF.0.into());
    let mut outcome = dispatch(services, domain, handle, vcpu, true)?;
    while outcome == Outcome::Preempted {
        outcome = resume(services, domain, handle, vcpu)
            .ok_or_else(|| Failure::Crash("an interrupted hypercall is forgotten".into()))??;
    }
    match outcome {
        Outcome::Done(0) => Ok(()),
        other => Err(BenchError::Guest(format!("was refused mmu_update: {other:?}"))),
    }
}
