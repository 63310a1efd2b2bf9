//! **The** test of the machine: a translation that outlives its entry is a guest's way out.
//!
//! A guest at CPL3 never stops storing a ticket, which the host raises, to pages that it loses by an operation of the
//! real paging code. Once the operation has returned the host raises the ticket; if a page that was lost ever holds
//! the new one, an access succeeded that the tables forbid. Each page of each round is one try.
//!
//! Each cell again with everything left out that makes a change take effect: then something stale must be seen.
//! A cell makes 10^4 tries, or `STALE_TRIES`, before it counts as passed. `STALE_SECONDS` ends each after that long, on
//! hosts where an exit takes too long for so many.

use crate::guest::machine;
use crate::stage::{ALIAS, DATA, PAGES, Stage, ro, rw, slot};
use crate::support::{check, kvm_test};
use crate::toucher::{GUEST_CODE, Next, Toucher};
use hypervisor::machine::kvm::{KvmKind, KvmMachine};
use hypervisor::machine::{Change, MachineError, MachineMemory, Translations};
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::page_table::{Level, Pte};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How the pages are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Unmap,
    Remap,
    Protect,
    /// They become tables, of each level in turn.
    BecomesTable,
    /// They are given back, and given to another domain.
    BalloonOut,
    /// They are another domain's, who takes back what it has lent.
    Revoke,
    /// The domain dies; another one gets its frames, and makes tables of what were tables, every other time of another
    /// level. The pages are given back once more.
    Death,
    /// The table of this level above them is freed, and made a table again: of each level in turn, with contents that
    /// the host wrote, and in between another domain had it, as a page or as a table.
    TableReused(Level),
    /// The entry of this level above them names another table.
    Move(Level),
}

/// From where they are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// The vCPU that is out of the guest while the operation goes on.
    SameVcpu,
    /// One that runs meanwhile, on another pcpu.
    OtherPcpu,
    /// The same, on another root over the same tables.
    OtherRoot,
    /// The same, through another address of the page.
    Alias,
}

const LOSSES: [Loss; 7] = [
    Loss::Unmap,
    Loss::Remap,
    Loss::Protect,
    Loss::BecomesTable,
    Loss::BalloonOut,
    Loss::Revoke,
    Loss::Death,
];
const VIEWS: [View; 4] = [View::SameVcpu, View::OtherPcpu, View::OtherRoot, View::Alias];
const UPPER: [Level; 3] = [Level::L2, Level::L3, Level::L4];

fn cells() -> Vec<(Loss, View)> {
    let mut cells: Vec<_> = LOSSES.into_iter().flat_map(|loss| VIEWS.map(|view| (loss, view))).collect();
    // A root changes while its vCPU is out; lower tables may while it runs.
    cells.extend([Level::L1, Level::L2, Level::L3].map(|level| (Loss::TableReused(level), View::OtherPcpu)));
    cells.push((Loss::TableReused(Level::L4), View::SameVcpu));
    let views = [View::SameVcpu, View::OtherPcpu];
    cells.extend(UPPER.into_iter().flat_map(|level| views.map(|view| (Loss::Move(level), view))));
    cells
}

static PASSED: AtomicU64 = AtomicU64::new(0);
static TRIES: AtomicU64 = AtomicU64::new(0);

pub fn tests() -> Vec<Trial> {
    let mut tests = Vec::new();
    for (loss, view) in cells() {
        tests.push(kvm_test(&format!("stale/{loss:?}/{view:?}"), move || never_stale(loss, view)));
        tests.push(kvm_test(&format!("sabotage/{loss:?}/{view:?}"), move || sabotage_is_noticed(loss, view)));
    }
    tests.push(kvm_test("sabotage/the start-up probe", the_probe_refuses_sabotage));
    tests
}

/// What was seen, if the cells ran.
pub fn report() {
    let (passed, tries) = (PASSED.load(SeqCst), TRIES.load(SeqCst));
    if tries > 0 {
        println!("stale_cells {passed}/{}\nstale_tries {tries}", cells().len());
    }
}

fn limit<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Nothing stale is ever used.
fn never_stale(loss: Loss, view: View) -> Result<(), Failed> {
    let (tries, seconds) = (limit("STALE_TRIES", 10_000), limit("STALE_SECONDS", u64::MAX));
    let outcome = run_cell(loss, view, (tries, Duration::from_secs(seconds)), false)?;
    check(outcome.stale == 0, || format!("{} accesses succeeded that must not", outcome.stale))?;
    PASSED.fetch_add(u64::from(outcome.tries >= tries), SeqCst);
    TRIES.fetch_add(outcome.tries, SeqCst);
    Ok(())
}

/// The test above can fail: without settling and retiring, something stale is used.
fn sabotage_is_noticed(loss: Loss, view: View) -> Result<(), Failed> {
    let outcome = run_cell(loss, view, (2000, Duration::from_secs(2)), true)?;
    // Emulated SVM flushes at each entry: there only a pcpu that does not leave the guest can be caught, and it
    // leaves of its own accord sometimes.
    let can_be_seen = outcome.kind == KvmKind::Software;
    check(outcome.stale > 0 || !can_be_seen, || "nothing stale was seen although nothing was settled".into())
}

struct Outcome {
    tries: u64,
    stale: u64,
    kind: KvmKind,
}

/// After as many, everything that takes turns had its turn.
const ROUNDS: usize = 12;

/// Rounds of losing pages and getting them back, until there were enough tries, or, with sabotage, one success.
fn run_cell(loss: Loss, view: View, limits: (u64, Duration), sabotage: bool) -> Result<Outcome, Failed> {
    let mut machine = machine(2)?;
    let pcpus = std::mem::take(&mut machine.pcpus);
    let mut stage = Stage::new(&machine, GUEST_CODE)?;
    if let Loss::TableReused(level) = loss {
        stage.user_base(None)?;
        // What lies below stays a table and keeps what is derived from it: only this table's retirement takes it away.
        if let Some(below) = level.below() {
            stage.pin(stage.guest, stage.main[slot(below)], below)?;
        }
    }
    if loss == Loss::Revoke {
        stage.update_pages(PAGES, |_| Pte(0))?;
        stage.give_away(&stage.pages)?;
        stage.borrow_pages(PAGES)?;
    }
    let mut cell = Cell { machine: &machine, stage, touchers: Vec::new(), active: 0, loss, view, ticket: 0 };
    let base = if view == View::Alias { ALIAS } else { DATA };
    cell.touchers = pcpus.into_iter().map(|pcpu| Toucher::new(pcpu, cell.root(), base)).collect();
    cell.toucher().resume(None);
    let mut outcome = Outcome { tries: 0, stale: 0, kind: machine.report.kvm };
    let start = Instant::now();
    for round in 0.. {
        // Hardware hides what sabotage does here (see below): no need to look for long.
        let hopeless = sabotage && outcome.kind == KvmKind::Hardware;
        let enough = hopeless || outcome.tries >= limits.0 || start.elapsed() > limits.1;
        if (enough && round >= ROUNDS) || (sabotage && outcome.stale > 0) {
            break;
        }
        let count = if loss.is_of_some_pages() { [PAGES, 1, PAGES, 17][round % 4] } else { PAGES };
        outcome.stale += cell.round(count, round, sabotage)?;
        outcome.tries += count as u64;
    }
    if !sabotage {
        cell.stage.audit()?;
    }
    cell.touchers.into_iter().try_for_each(Toucher::stop)?;
    Ok(outcome)
}

impl Loss {
    const fn is_of_some_pages(self) -> bool {
        !matches!(self, Self::Death | Self::TableReused(_) | Self::Move(_))
    }

    /// What is done to a running domain's vCPU is done while it is out.
    fn needs_a_pause(self, round: usize) -> bool {
        match self {
            Self::Death => true,
            Self::TableReused(level) => [level, reused_as(level, round)].contains(&Level::L4),
            _ => false,
        }
    }
}

/// The level that such a table is of, at first its own.
fn reused_as(level: Level, round: usize) -> Level {
    Level::ALL[(slot(level) + round) % 4]
}

struct Cell<'a> {
    machine: &'a KvmMachine,
    stage: Stage,
    /// One a pcpu, of which one is not paused.
    touchers: Vec<Toucher>,
    active: usize,
    loss: Loss,
    view: View,
    /// Even, so that a page of it can become a table: its first entry is not present.
    ticket: u64,
}

impl Cell<'_> {
    fn toucher(&self) -> &Toucher {
        &self.touchers[self.active]
    }

    fn root(&self) -> Mfn {
        if self.view == View::OtherRoot { self.stage.other_root } else { self.stage.root }
    }

    fn memory(&self) -> &MachineMemory {
        &self.machine.memory
    }

    /// A new ticket, seen by a guest that had time to touch everything.
    fn touched(&mut self) -> Result<(), Failed> {
        self.ticket += 2;
        self.memory().store_u64(self.stage.mailbox, 0, self.ticket)?;
        self.toucher().finished(self.ticket, &self.machine.memory, self.stage.mailbox)
    }

    /// Pages that hold the present ticket.
    fn reached(&self, pages: &[Mfn]) -> Result<u64, Failed> {
        let mut reached = 0;
        for &page in pages {
            reached += u64::from(self.memory().load_u64(page, 0)? >= self.ticket);
        }
        Ok(reached)
    }

    /// One round with the first `count` pages: how many were reached that must not be.
    fn round(&mut self, count: usize, round: usize, sabotage: bool) -> Result<u64, Failed> {
        let lost = self.stage.pages[..count].to_vec();
        self.touched()?;
        let reached = self.reached(&lost)?;
        check(sabotage || reached == count as u64, || {
            format!("{reached} of {count} pages were reached at first")
        })?;
        let (loss, needs_a_pause) = (self.loss, self.loss.needs_a_pause(round));
        let pause = self.view == View::SameVcpu || needs_a_pause;
        if pause {
            self.toucher().pause()?;
        }
        self.stage.maybe_sabotaged(sabotage, |stage| lose(stage, loss, count, round))?;
        if loss == Loss::Death && self.view == View::OtherPcpu {
            self.active = (self.active + 1) % self.touchers.len(); // the next domain's vCPU runs there
        }
        if pause {
            self.resume();
        }
        self.touched()?;
        let stale = self.reached(&lost)?;
        let pause = needs_a_pause && loss != Loss::Death;
        if pause {
            self.toucher().pause()?;
        }
        regain(&mut self.stage, loss, count, round)?;
        if pause {
            self.resume();
        }
        Ok(stale)
    }

    fn resume(&self) {
        self.toucher().resume(match self.loss {
            Loss::Death => Some(Next::Vcpu(self.root())),
            Loss::TableReused(_) => Some(Next::Root(self.root())),
            _ => None,
        });
    }
}

/// The operation under test.
fn lose(stage: &mut Stage, loss: Loss, count: usize, round: usize) -> Result<(), Failed> {
    let (main, spare) = (stage.main, stage.spare);
    let code = crate::guest::CODE;
    match loss {
        Loss::Unmap => stage.update_pages(count, |_| Pte(0)),
        Loss::Remap => stage.update_pages(count, |page| rw(stage.others[page])),
        Loss::Protect => stage.update_pages(count, |page| ro(stage.pages[page])),
        Loss::BecomesTable => {
            stage.update_pages(count, |page| ro(stage.pages[page]))?;
            let pages = stage.pages[..count].iter().zip(Level::ALL.into_iter().cycle().skip(round));
            pages.into_iter().try_for_each(|(&page, level)| stage.pin(stage.guest, page, level))
        }
        Loss::BalloonOut => {
            stage.update_pages(count, |_| Pte(0))?;
            stage.give_away(&stage.pages[..count])
        }
        Loss::Revoke => stage.return_pages(count),
        Loss::Death => {
            stage.die_and_be_reborn(!round.is_multiple_of(2))?;
            stage.settle_in(GUEST_CODE)
        }
        Loss::Move(level) => {
            let n = slot(level);
            stage.update(&[(main[n], level, code, rw(spare[n - 1]))])
        }
        Loss::TableReused(level) => reuse(stage, level, round),
    }
}

/// The path that the guest is on while the main table of this level is out of it.
fn without(stage: &Stage, level: Level) -> [Mfn; 4] {
    let mut path = stage.main;
    path[..=slot(level)].copy_from_slice(&stage.spare[..=slot(level)]);
    path
}

/// The table leaves the tree, and comes back as a table that leads to nothing under test.
fn reuse(stage: &mut Stage, level: Level, round: usize) -> Result<(), Failed> {
    let (table, path, to) = (stage.main[slot(level)], without(stage, level), reused_as(level, round));
    stage.link(path, path[slot(level)], level)?;
    if !(round / 4).is_multiple_of(3) {
        stage.give_away(&[table])?;
        if (round / 4) % 3 == 2 {
            stage.pin(stage.victim, table, to)?;
            stage.unpin(stage.victim, table)?;
        }
        stage.get_back(&[table])?;
    }
    put(stage, path, table, to)
}

/// The table takes the place of the one of this level, with the same contents.
fn put(stage: &mut Stage, path: [Mfn; 4], table: Mfn, level: Level) -> Result<(), Failed> {
    stage.mmu.memory().copy_frame(path[slot(level)], table)?;
    if level == Level::L1 {
        // What it maps instead, so that there is something to believe.
        stage.draft(table, level, DATA, rw(stage.others[0]))?;
    }
    stage.link(path, table, level)
}

/// The table is where it was at first.
fn put_back(stage: &mut Stage, level: Level, round: usize) -> Result<(), Failed> {
    let (table, path, from) = (stage.main[slot(level)], without(stage, level), reused_as(level, round));
    if from == level {
        return Ok(());
    }
    stage.link(path, path[slot(from)], from)?;
    put(stage, path, table, level)
}

/// Everything as before the operation.
fn regain(stage: &mut Stage, loss: Loss, count: usize, round: usize) -> Result<(), Failed> {
    let code = crate::guest::CODE;
    if let Loss::TableReused(level) = loss {
        put_back(stage, level, round)?;
    }
    match loss {
        Loss::Unmap | Loss::Remap | Loss::Protect => {}
        Loss::BecomesTable => {
            stage.pages[..count].iter().try_for_each(|&page| stage.unpin(stage.guest, page))?;
        }
        Loss::BalloonOut => stage.get_back(&stage.pages[..count])?,
        Loss::Revoke => return stage.borrow_pages(count),
        Loss::Death => stage.get_back(&stage.pages)?,
        Loss::Move(level) | Loss::TableReused(level) if level != Level::L1 => {
            let n = slot(level);
            return stage.update(&[(stage.main[n], level, code, rw(stage.main[n - 1]))]);
        }
        _ => {}
    }
    let count = if loss.is_of_some_pages() { count } else { PAGES };
    stage.update_pages(count, |page| rw(stage.pages[page]))
}

/// Leaves everything out that makes a change take effect.
#[derive(Debug)]
struct Nothing;

impl Translations for Nothing {
    fn settle(&self, _: &[Change]) -> Result<(), MachineError> {
        Ok(())
    }
    fn retire(&self, _: Mfn, _: Level) -> Result<(), MachineError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), MachineError> {
        Ok(())
    }
}

/// Fail closed: a way of changing tables that changes nothing does not pass the start-up probe, the real one does.
fn the_probe_refuses_sabotage() -> Result<(), Failed> {
    let mut machine = machine(2)?;
    let real = Arc::clone(&machine.translations);
    machine.probe_tables(&*real)?.map_err(|why| format!("the real way: {why}"))?;
    let refused = machine.probe_tables(&Nothing)?.is_err();
    // As above: emulated SVM hides it.
    check(refused || machine.report.kvm == KvmKind::Hardware, || "sabotage passed the probe".into())
}
