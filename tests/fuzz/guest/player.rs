//! One guest, from its first call to the recount after its end.

use crate::calls::{Caller, Case, Choices, Ground, PAGES, Random};
use crate::coverage::Coverage;
use crate::kernel::{Kernel, Move, VCPUS, progress, results, stack};
use crate::lending::Lent;
use crate::support::check;
use crate::tiny_guest::{CODE, CONSOLE_PORT, Guest, Host, STORE_PORT, UNMAPPED};
use hypervisor::hypercall::TABLE;
use libtest_mimic::Failed;
use pv_abi::page_table::Level;
use std::time::{Duration, Instant};

/// In the second half of the initial mapping, where nothing else is.
const PLAYGROUND: u64 = UNMAPPED - 0x10_0000;
/// Pages of the two vCPUs' structures in the playground.
const STRUCTURES: [u64; VCPUS as usize] = [20, 17];
const MOVES: usize = 600;
/// A guest that is at the same record for that long has stopped itself, and is ended.
const PATIENCE: Duration = Duration::from_millis(300);

/// What the guest knows. Its grant table is made for it: a script could not use what a call returned.
fn ground(host: &Host, kernel: &Kernel, guest: &Guest, vcpu: u64) -> Result<Ground, Failed> {
    let (mmu, domain) = (&host.hypervisor.services().mmu, guest.domain.id());
    let mut grants = guest.domain.grants().lock();
    grants.grow(mmu, domain, 1).map_err(|refusal| refusal.to_string())?;
    let grant_frame = grants.frames()[0].0;
    let canary = host.canary();
    let root = guest.built.root.0;
    let own = [guest.mfn(CODE).0, guest.table(Level::L2, CODE).0, guest.domain.shared().frame().0];
    let others = [canary.mfn(CODE).0, canary.built.root.0, canary.table(Level::L1, CODE).0];
    Ok(Ground {
        base: PLAYGROUND,
        pages: (0..PAGES).map(|page| guest.mfn(PLAYGROUND + page * 4096).0).collect(),
        structures: STRUCTURES[vcpu as usize],
        first_entry: Level::L1.index(PLAYGROUND) as u64,
        l1: guest.table(Level::L1, PLAYGROUND).0,
        root,
        user_root: root,
        others: own.into_iter().chain(others).chain([0, 1, 17]).collect(),
        frames: mmu.layout().frames,
        domain: domain.0.into(),
        lender: canary.domain.id().0.into(),
        grant_frame,
        numbers: TABLE.iter().map(|row| row.number).collect(),
        stack: stack(vcpu),
        code: kernel.skip,
        runs: true,
    })
}

/// What a vCPU does: by `syscall` mostly, by the doorbell often, in another way sometimes.
fn moves(ground: Ground, gates: usize, choices: Random) -> Vec<Move> {
    let mut caller = Caller { choices, ground: &ground };
    let by_syscall = |case: Case| (case, 0);
    let first = caller.clear_drafts().into_iter().chain(caller.find_back());
    let mut moves: Vec<Move> = first.map(by_syscall).collect();
    while moves.len() < MOVES {
        let case = caller.case();
        let gate = match caller.choices.below(16) {
            0..11 => 0,
            11..15 => 1,
            _ => caller.choices.below(gates as u64) as usize,
        };
        moves.push((case, gate));
        if moves.len().is_multiple_of(16) {
            moves.extend(caller.find_back().into_iter().map(by_syscall));
        }
    }
    moves
}

/// A guest plays what the seed says.
pub fn play(host: &Host, kernel: &Kernel, seed: u64, coverage: &mut Coverage) -> Result<(), Failed> {
    let guest = host.build(&kernel.code)?;
    let lent = Lent::to(host, guest.domain.id())?;
    kernel.complete(&guest);
    // In half of the guests, both vCPUs have their structures in the same pages.
    let share = seed.is_multiple_of(2);
    let mut scripts = Vec::new();
    for vcpu in 0..VCPUS {
        let mut ground = ground(host, kernel, &guest, vcpu)?;
        if share {
            ground.structures = STRUCTURES[0];
        }
        let mut moves = moves(ground, kernel.gates.len(), Random::new(seed * VCPUS + vcpu));
        moves.truncate(kernel.load(&guest, vcpu, &moves));
        scripts.push(moves);
    }
    let _back_ends = [guest.listen(STORE_PORT)?, guest.listen(CONSOLE_PORT)?];
    guest.start()?;
    coverage.mapped += watch(host, &guest, &lent)?;
    let results =
        (0..VCPUS).map(|vcpu| results(kernel, &guest, vcpu, &scripts[vcpu as usize])).collect::<Vec<_>>();
    // What has ended has given its memory back, and with it the results.
    let lives = !guest.domain.life().has_ended();
    if lives && has_played(&guest) {
        lent.audit(host, &guest)?;
        coverage.recounted += 1;
    }
    let end = guest.wait_or_destroy(Duration::ZERO)?;
    coverage.ended(&end, guest.domain.statistics());
    if lives && !share {
        scripts.iter().zip(results).for_each(|(moves, results)| coverage.results(moves, &results));
    }
    host.canary_goes_on()?;
    lent.is_back(host)?;
    host.audit_beside_canary()
}

/// Whether its two vCPUs have nothing more to do, and no other one was started.
fn has_played(guest: &Guest) -> bool {
    let started = guest.domain.vcpus().iter().filter(|vcpu| vcpu.is_initialised()).count();
    progress(guest)[0] == VCPUS && started == VCPUS as usize
}

/// Looks after the canary until the guest has ended, or has played everything, or gets no further. How many mappings
/// it was seen to have of what the canary lends.
fn watch(host: &Host, guest: &Guest, lent: &Lent) -> Result<u64, Failed> {
    let mmu = &host.hypervisor.services().mmu;
    let canary = host.canary().domain.id();
    let frames = mmu.frames_of(canary);
    let (mut seen, mut since, mut mapped) = (progress(guest), Instant::now(), 0);
    while !guest.domain.life().has_ended() && seen[0] < VCPUS && since.elapsed() < PATIENCE {
        host.canary_is_unharmed()?;
        check(mmu.frames_of(canary) == frames, || "the canary has other frames".into())?;
        mapped = lent.mappings(host, guest)?.max(mapped);
        let now = progress(guest);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    host.canary_is_unharmed()?;
    Ok(mapped)
}
