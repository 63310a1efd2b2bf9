//! A run of a hypercall is short, whatever the call and however many of them a multicall makes.

use super::super::{Call, Outcome, dispatch, find, resume};
use crate::frame::FrameType;
use crate::paging::{Budget, CountersNow, Progress as Drained};
use crate::services::STEPS;
use crate::testing::{Guest, World, page, syscall};
use crate::vcpu::Progress;
use pv_abi::hypercall::MulticallEntry;
use pv_abi::memory::MemoryReservation;
use pv_abi::mmu::{MmuExtCommand, MmuExtOp, MmuUpdate};
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Errno, Mfn};
use zerocopy::FromZeros;

const SELF: u64 = DomId::SELF.0 as u64;
const RW: PteFlags = PteFlags::PRESENT.union(PteFlags::WRITABLE);
/// Where the calls of a multicall are (4 pages), and where what some of them are about.
const CALLS: u64 = page(2);
const ARRAY: u64 = page(1);

fn entry(op: u64, args: &[u64]) -> MulticallEntry {
    let mut entry = MulticallEntry { op, result: 0, args: [0; 6] };
    entry.args[..args.len()].copy_from_slice(args);
    entry
}

/// Makes a hypercall to its end, and looks how far it has come whenever it is interrupted.
fn in_runs(world: &World, guest: &Guest, number: u64, arguments: &[u64], mut look: impl FnMut(Progress)) {
    let outcome = world.on_vcpu(guest, |handle, vcpu| {
        syscall(&mut vcpu.context, number, arguments);
        let mut outcome = dispatch(&world.services, &guest.domain, handle, vcpu, true).unwrap();
        while outcome == Outcome::Preempted {
            look(vcpu.continuation.unwrap().progress);
            outcome = resume(&world.services, &guest.domain, handle, vcpu).unwrap().unwrap();
        }
        (outcome, vcpu.context.registers.rax)
    });
    assert_eq!(outcome, (Outcome::Done(0), 0));
}

/// Makes all these calls by one multicall.
fn multicall(world: &World, guest: &Guest, calls: &[MulticallEntry], look: impl FnMut(Progress)) {
    world.poke(guest, CALLS, calls);
    in_runs(world, guest, 13, &[CALLS, calls.len() as u64], look);
    for index in 0..calls.len() as u64 {
        let MulticallEntry { op, result, .. } = world.peek(guest, CALLS + 64 * index);
        assert!(Errno::from_return(result).is_ok(), "call {index} of {op}");
    }
}

/// What another vCPU writes into an entry whose call has begun changes nothing of it.
#[test]
fn a_call_that_was_interrupted_goes_on_as_it_began() {
    const UPDATES: u64 = 2048;
    let mut world = World::new();
    let guest = world.guest();
    let update = |n: u64| MmuUpdate { ptr: guest.pages[30].address() | 1, val: n };
    let updates: Vec<_> = (0..UPDATES).map(update).collect();
    world.poke(&guest, page(10), updates.as_slice());
    let calls = [entry(17, &[7]), entry(1, &[page(10), UPDATES, 0, SELF]), entry(17, &[7])];
    world.poke(&guest, CALLS, calls.as_slice());
    let mut interrupted = 0;
    in_runs(&world, &guest, 13, &[CALLS, 3], |progress| {
        interrupted += u32::from(progress.calls == 1 && progress.elements != 0);
        world.poke(&guest, CALLS + 64, &entry(17, &[0]));
    });
    assert!(interrupted != 0, "it was done in one run");
    assert_eq!(world.services.mmu.pfn(guest.pages[30]).0, UPDATES - 1, "each update was made");
    let counted = |number| guest.domain.statistics().hypercalls_of(number);
    assert_eq!((counted(1), counted(17)), (1, 2));
    world.check_end(vec![guest]);
}

/// Calls of so many elements each, of which so many may be done in one run. Some are read and paid for a chunk at a
/// time, and a run ends behind a whole one.
struct Batches {
    name: &'static str,
    calls: Vec<MulticallEntry>,
    elements: u64,
    most: u64,
}

impl Batches {
    /// What is done in each run of a multicall of all these calls.
    fn runs(&self, world: &World, guest: &Guest) -> Vec<u64> {
        let mut ends = vec![0];
        multicall(world, guest, &self.calls, |progress| {
            ends.push(progress.calls * self.elements + progress.elements);
        });
        ends.push(self.calls.len() as u64 * self.elements);
        ends.windows(2).map(|run| run[1] - run[0]).collect()
    }
}

/// The arrays of the batches below.
const NOTHING: u64 = page(8); // 15 pages
const RESERVATION: u64 = page(23);
const FLUSHES: u64 = page(24);
const UPDATES: u64 = page(25); // 6 pages

fn put_arrays(world: &World, guest: &Guest) {
    world.poke(guest, NOTHING, &[0_u8; 60 << 10]);
    let mut request = MemoryReservation::new_zeroed();
    (request.extent_start, request.nr_extents, request.domid) = (RESERVATION + 64, 20, DomId::SELF);
    world.poke(guest, RESERVATION, &request);
    world.poke(guest, FLUSHES, &[MmuExtOp::new(MmuExtCommand::TLB_FLUSH_ALL, 0); 160]);
    world.poke(guest, UPDATES, &[MmuUpdate { ptr: guest.pages[7].address() | 1, val: 7 }; 1500]);
}

fn batches(guest: &Guest) -> [Batches; 10] {
    let of = |name, calls: &[MulticallEntry], times, elements, most| {
        let calls = calls.repeat(times);
        Batches { name, calls, elements, most }
    };
    // An element of nothing is refused, and costs what each does.
    let grants = |op| [entry(20, &[op, NOTHING, 1000])];
    let [take, give] = [0, 1].map(|op| entry(12, &[op, RESERVATION]));
    let same = Pte::new(guest.pages[31], RW).0;
    [
        of("mappings", &grants(0), 3, 1000, 128),
        of("unmappings", &grants(1), 3, 1000, 128 + 31),
        of("copies", &grants(5), 3, 1000, 256),
        of("replacements", &grants(7), 3, 1000, 128 + 31),
        of("bytes on the console", &[entry(18, &[0, 40 << 10, NOTHING])], 3, 40 << 10, 16 << 10),
        of("flushes", &[entry(26, &[FLUSHES, 160, 0, SELF])], 60, 160, 64),
        of("updates that flush", &[entry(14, &[page(31), same, 1])], 100, 1, 32),
        of("updates", &[entry(1, &[UPDATES, 1500, 0, SELF])], 3, 1500, 1024 + 63),
        of("extents", &[take, give], 30, 20, 256),
        of("cheap calls", &[entry(17, &[7])], 256, 1, 64),
    ]
}

#[test]
fn every_batch_is_cut_into_runs() {
    let mut world = World::new();
    let guest = world.guest();
    put_arrays(&world, &guest);
    let mut too_long = Vec::new();
    for batches in batches(&guest) {
        let Batches { name, most, .. } = batches;
        let runs = batches.runs(&world, &guest);
        assert!(runs.iter().sum::<u64>() > most, "{name}: too few");
        assert!(runs.iter().all(|&run| run > 0), "{name}: a run did nothing: {runs:?}");
        if runs.iter().any(|&run| run > most) {
            too_long.push(format!("{name}, at most {most}: {runs:?}"));
        }
    }
    assert_eq!(too_long, Vec::<String>::new());
    world.check_end(vec![guest]);
}

/// A page that is a table once it is validated, and names those.
fn table(world: &World, guest: &Guest, below: &[Mfn]) -> Mfn {
    let mmu = &world.services.mmu;
    let table = mmu.allocate(guest.domain.id()).unwrap();
    for (index, &mfn) in below.iter().enumerate() {
        mmu.memory().exchange_entry(table, index, Pte::new(mfn, RW), 0).unwrap();
    }
    table
}

/// The same, of so many empty tables: 512 steps each, and as many for itself.
fn tables(world: &World, guest: &Guest, count: usize) -> Mfn {
    let below: Vec<Mfn> = (0..count).map(|_| table(world, guest, &[])).collect();
    table(world, guest, &below)
}

/// Eight trees of 2048 steps are linked, and taken apart, by one multicall.
#[test]
fn trees_in_a_multicall_share_one_bound() {
    let mut world = World::new();
    let guest = world.guest();
    let trees: Vec<Mfn> = (0..8).map(|_| table(&world, &guest, &[tables(&world, &guest, 2)])).collect();
    let place = |slot: usize| guest.root.address() + 8 * slot as u64;
    let link = (1..).zip(&trees).map(|(slot, &tree)| (slot, Pte::new(tree, RW)));
    let unlink = (1..=trees.len()).map(|slot| (slot, Pte(0)));
    let updates: Vec<_> =
        link.chain(unlink).map(|(slot, entry)| MmuUpdate { ptr: place(slot), val: entry.0 }).collect();
    world.poke(&guest, ARRAY, updates.as_slice());
    let calls: Vec<_> = (0..updates.len() as u64).map(|n| entry(1, &[ARRAY + 16 * n, 1, 0, SELF])).collect();

    let steps = || {
        let CountersNow { entries_validated, tables_retired, .. } = world.services.mmu.counters();
        entries_validated + 512 * tables_retired
    };
    let (start, mut before, mut runs) = (steps(), steps(), 0);
    multicall(&world, &guest, &calls, |_| {
        let run = steps() - before;
        assert!(run <= u64::from(STEPS) + 2 * 512, "{run} steps in one run");
        (before, runs) = (before + run, runs + 1);
    });
    assert!(runs >= 7, "{runs} interruptions");
    let drained = world.services.mmu.drain(guest.domain.id(), &mut Budget::unlimited()).unwrap();
    assert_eq!(drained, Drained::Done);
    let unlinked = (steps() - start, world.services.mmu.frames().word(trees[7]).kind);
    assert_eq!(unlinked, (16 * 2048, FrameType::None));
    world.check_end(vec![guest]);
}

/// What other calls left over is paid for by the one that goes on with it, or it waits its turn.
#[test]
fn what_was_left_over_has_its_price() {
    let mut world = World::new();
    let guest = world.guest();
    assert_eq!(world.call(&guest, 14, &[page(30), 0, 0]), Ok(0));
    world.poke(&guest, ARRAY, &guest.pages[30]);
    let update = MmuUpdate { ptr: guest.pages[29].address() | 1, val: 29 };
    world.poke(&guest, ARRAY + 8, &update);
    let domain = guest.domain.id();
    let leave_over = |count| {
        let (mmu, tree) = (&world.services.mmu, tables(&world, &guest, count));
        let pinned = mmu.pin(domain, tree, Level::L2, &mut Budget::unlimited()).unwrap();
        assert_eq!(pinned, Drained::Done);
        assert_eq!(mmu.unpin(domain, tree, &mut Budget::new(1)).unwrap(), Drained::Done);
    };
    let same = Pte::new(guest.pages[29], RW).0;
    for (number, arguments) in [
        (1, [ARRAY + 8, 1, 0, SELF, 0, 0]),
        (2, [ARRAY, 512, 0, 0, 0, 0]),
        (14, [page(29), same, 0, 0, 0, 0]),
    ] {
        leave_over(3);
        let (outcome, left) = world.on_vcpu(&guest, |handle, vcpu| {
            let mut call = Call::new(&world.services, &guest.domain, handle, vcpu, Progress::default());
            let outcome = (find(number).unwrap().handler)(&mut call, arguments).unwrap();
            (outcome, call.budget.left())
        });
        assert_eq!(outcome, Outcome::Done(0), "{number}");
        assert!(left <= STEPS - 4 * 512, "{number}: {left} steps of {STEPS} are left");

        leave_over(12);
        let mut runs = 0;
        in_runs(&world, &guest, number, &arguments, |_| runs += 1);
        assert_eq!(runs, 1, "{number}");
    }
    assert_eq!(world.call(&guest, 2, &[0, 0]), Ok(0));
    world.check_end(vec![guest]);
}
