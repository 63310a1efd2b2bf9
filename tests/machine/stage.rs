//! A domain whose page tables the real paging code keeps on the real machine, laid out for losing access to pages.
//!
//! Two paths of tables lead to the guest's code: the *main* one maps the pages under test as well, the *spare* one
//! does not. Tables of the spare one are pinned, so that each can be exchanged alone.

use crate::guest::{CODE, MAILBOX, STACK_TOP};
use hypervisor::machine::kvm::KvmMachine;
use hypervisor::machine::{Change, MachineError, Translations};
use hypervisor::paging::{Batch, Budget, EntryPlace, EntryTarget, Mmu, Progress, Roots};
use libtest_mimic::Failed;
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Mfn, PAGE_SIZE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// How many pages are under test.
pub const PAGES: usize = 128;
/// Where they are mapped, twice, in the L1 table that maps the code.
pub const DATA: u64 = CODE + 16 * PAGE_SIZE as u64;
pub const ALIAS: u64 = DATA + 160 * PAGE_SIZE as u64;

/// The machine's way of making changes take effect, which can be left out.
#[derive(Debug)]
pub struct Switch {
    real: Arc<dyn Translations>,
    off: AtomicBool,
}

impl Translations for Switch {
    fn settle(&self, changes: &[Change]) -> Result<(), MachineError> {
        if self.off.load(SeqCst) { Ok(()) } else { self.real.settle(changes) }
    }

    fn retire(&self, table: Mfn, level: Level) -> Result<(), MachineError> {
        if self.off.load(SeqCst) { Ok(()) } else { self.real.retire(table, level) }
    }

    fn flush(&self) -> Result<(), MachineError> {
        if self.off.load(SeqCst) { Ok(()) } else { self.real.flush() }
    }
}

/// See the head of this file.
pub struct Stage {
    pub mmu: Arc<Mmu>,
    switch: Arc<Switch>,
    pub roots: Roots,
    /// The root that the vCPU goes on on.
    pub root: Mfn,
    /// Whose tables they are.
    pub guest: DomId,
    /// Who gets what the guest loses.
    pub victim: DomId,
    /// The tables of the main path, from L1 up.
    pub main: [Mfn; 4],
    pub spare: [Mfn; 4],
    /// Another root over the main L3 table.
    pub other_root: Mfn,
    pub pages: Vec<Mfn>,
    /// What pages are exchanged for.
    pub others: Vec<Mfn>,
    pub mailbox: Mfn,
    code: Mfn,
    stack: Mfn,
}

const RW: PteFlags = PteFlags::PRESENT.union(PteFlags::WRITABLE);

pub fn rw(mfn: Mfn) -> Pte {
    Pte::new(mfn, RW)
}

pub fn ro(mfn: Mfn) -> Pte {
    Pte::new(mfn, PteFlags::PRESENT)
}

pub const fn slot(level: Level) -> usize {
    level as usize - 1
}

impl Stage {
    /// A domain on a machine that has none, whose guest executes `code`.
    pub fn new(machine: &KvmMachine, code: &[u8]) -> Result<Self, Failed> {
        let switch =
            Arc::new(Switch { real: Arc::clone(&machine.translations), off: AtomicBool::new(false) });
        let (memory, layout) = (Arc::clone(&machine.memory), Arc::clone(&machine.layout));
        let mmu = Arc::new(Mmu::new(memory, layout, Arc::clone(&switch) as Arc<dyn Translations>));
        let zero = Mfn(0);
        let mut stage = Self {
            mmu,
            switch,
            roots: Roots::default(),
            root: zero,
            guest: DomId(1),
            victim: DomId(2),
            main: [zero; 4],
            spare: [zero; 4],
            other_root: zero,
            pages: Vec::new(),
            others: Vec::new(),
            mailbox: zero,
            code: zero,
            stack: zero,
        };
        stage.build()?;
        stage.mmu.memory().write(stage.code, 0, code)?;
        Ok(stage)
    }

    /// All frames, and the tables written as a guest writes them before they are tables.
    fn build(&mut self) -> Result<(), Failed> {
        [self.code, self.stack, self.mailbox] = self.frames()?;
        self.main = self.frames()?;
        self.spare = self.frames()?;
        [self.other_root] = self.frames()?;
        self.pages = self.frames::<PAGES>()?.to_vec();
        self.others = self.frames::<PAGES>()?.to_vec();
        for path in [self.main, self.spare] {
            self.draft_path(path)?;
        }
        for page in 0..PAGES {
            for base in [DATA, ALIAS] {
                self.draft(self.main[0], Level::L1, base + (page * PAGE_SIZE) as u64, rw(self.pages[page]))?;
            }
        }
        self.draft(self.other_root, Level::L4, CODE, rw(self.main[2]))?;
        self.take_up_roots()
    }

    fn take_up_roots(&mut self) -> Result<(), Failed> {
        self.base(self.main[3])?;
        self.user_base(Some(self.other_root))?;
        Level::ALL.into_iter().try_for_each(|level| self.pin(self.guest, self.spare[slot(level)], level))
    }

    fn draft_path(&self, path: [Mfn; 4]) -> Result<(), Failed> {
        for (address, frame) in [(CODE, self.code), (STACK_TOP - 1, self.stack), (MAILBOX, self.mailbox)] {
            self.draft(path[0], Level::L1, address, rw(frame))?;
        }
        for level in [Level::L2, Level::L3, Level::L4] {
            self.draft(path[slot(level)], level, CODE, rw(path[slot(level) - 1]))?;
        }
        Ok(())
    }

    /// Writes an entry into a frame that is no table yet.
    pub fn draft(&self, frame: Mfn, level: Level, address: u64, entry: Pte) -> Result<(), Failed> {
        self.mmu.memory().exchange_entry(frame, level.index(address), entry, 0)?;
        Ok(())
    }

    fn frames<const N: usize>(&self) -> Result<[Mfn; N], Failed> {
        let mut frames = [Mfn(0); N];
        for frame in &mut frames {
            *frame = self.mmu.allocate(self.guest).map_err(|refusal| refusal.to_string())?;
        }
        Ok(frames)
    }

    /// Runs the operation under test, with everything left out that makes it take effect, where that is asked for.
    pub fn maybe_sabotaged<R>(&mut self, sabotage: bool, operation: impl FnOnce(&mut Self) -> R) -> R {
        self.switch.off.store(sabotage, SeqCst);
        let outcome = operation(self);
        self.switch.off.store(false, SeqCst);
        outcome
    }

    /// `mmu_update` of these entries in one batch: table, level, address, entry.
    pub fn update(&self, updates: &[(Mfn, Level, u64, Pte)]) -> Result<(), Failed> {
        let mut batch = Batch::new(self.guest, Budget::unlimited());
        let outcome = updates.iter().try_for_each(|&(table, level, address, entry)| {
            let ptr = table.address() + level.index(address) as u64 * 8;
            self.mmu.mmu_update(MmuUpdate { ptr, val: entry.0 }, &mut batch).map(|_| ())
        });
        Ok(self.mmu.finish(batch).and(outcome)?)
    }

    /// Both entries of the first `count` pages.
    pub fn update_pages(&self, count: usize, entry: impl Fn(usize) -> Pte) -> Result<(), Failed> {
        let places = (0..count).flat_map(|page| [DATA, ALIAS].map(|base| (page, base)));
        let updates = places
            .map(|(page, base)| (self.main[0], Level::L1, base + (page * PAGE_SIZE) as u64, entry(page)));
        self.update(&updates.collect::<Vec<_>>())
    }

    /// The victim lends the first `count` pages, which are its own: they are mapped where they were.
    pub fn borrow_pages(&self, count: usize) -> Result<(), Failed> {
        self.at_both_places(count, |page, place, batch| {
            let lent = self.mmu.hold(self.victim, page, true).map_err(|refusal| refusal.to_string())?;
            let entry = place.table.address() + place.index as u64 * 8;
            let mapped = self.mmu.map_lent(EntryTarget::Machine(entry), lent, PteFlags::empty(), batch)?;
            if mapped == Some(place) {
                Ok(())
            } else {
                Err(format!("{mapped:?} instead of {place:?}").into())
            }
        })
    }

    /// Unmaps what [`Self::borrow_pages`] has mapped, at both places of each page.
    pub fn return_pages(&self, count: usize) -> Result<(), Failed> {
        self.at_both_places(count, |page, place, batch| done(self.mmu.unmap_lent(place, page, batch)))
    }

    fn at_both_places(
        &self,
        count: usize,
        action: impl Fn(Mfn, EntryPlace, &mut Batch) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let mut batch = Batch::new(self.guest, Budget::unlimited());
        let mut places = self.places().take(2 * count);
        let outcome = places.try_for_each(|(place, page)| action(page, place, &mut batch));
        self.mmu.finish(batch)?;
        outcome
    }

    /// The entries of the pages under test, page after page.
    fn places(&self) -> impl Iterator<Item = (EntryPlace, Mfn)> {
        let both = |(number, &page): (usize, &Mfn)| {
            [DATA, ALIAS].map(|base| {
                let index = Level::L1.index(base + (number * PAGE_SIZE) as u64);
                (EntryPlace { table: self.main[0], index }, page)
            })
        };
        self.pages.iter().enumerate().flat_map(both)
    }

    pub fn pin(&self, domain: DomId, mfn: Mfn, level: Level) -> Result<(), Failed> {
        done(self.mmu.pin(domain, mfn, level, &mut Budget::unlimited()))
    }

    pub fn unpin(&self, domain: DomId, mfn: Mfn) -> Result<(), Failed> {
        done(self.mmu.unpin(domain, mfn, &mut Budget::unlimited()))
    }

    /// The vCPU goes on on this root.
    pub fn base(&mut self, root: Mfn) -> Result<(), Failed> {
        done(self.mmu.new_baseptr(self.guest, &mut self.roots, root, &mut Budget::unlimited()))?;
        self.root = root;
        Ok(())
    }

    /// Without a root here, nothing but the vCPU's own root keeps the main tables.
    pub fn user_base(&mut self, root: Option<Mfn>) -> Result<(), Failed> {
        done(self.mmu.new_user_baseptr(self.guest, &mut self.roots, root, &mut Budget::unlimited()))
    }

    /// Puts a table into the tree of this path, in place of the one of its level.
    pub fn link(&mut self, path: [Mfn; 4], table: Mfn, level: Level) -> Result<(), Failed> {
        match Level::ALL.get(slot(level) + 1) {
            Some(&above) => self.update(&[(path[slot(above)], above, CODE, rw(table))]),
            None => self.base(table),
        }
    }

    /// Frames of the guest's that nobody refers to any more are the victim's.
    pub fn give_away(&self, frames: &[Mfn]) -> Result<(), Failed> {
        self.hand_over(frames, self.guest, self.victim)
    }

    /// They are the guest's again.
    pub fn get_back(&self, frames: &[Mfn]) -> Result<(), Failed> {
        self.hand_over(frames, self.victim, self.guest)
    }

    fn hand_over(&self, frames: &[Mfn], from: DomId, to: DomId) -> Result<(), Failed> {
        for &frame in frames {
            self.mmu.deallocate(from, frame).map_err(|refusal| refusal.to_string())?;
        }
        let given: Result<Vec<Mfn>, _> = frames.iter().map(|_| self.mmu.allocate(to)).collect();
        let mut given = given.map_err(|refusal| refusal.to_string())?;
        given.reverse(); // last in, first out
        if given != frames {
            return Err(format!("{frames:?} were not free: {given:?} were").into());
        }
        Ok(())
    }

    /// The domain dies. The other one gets all its frames. What were tables are tables again, where `moves` is set of
    /// another level, or of the other path.
    pub fn die_and_be_reborn(&mut self, moves: bool) -> Result<(), Failed> {
        self.mmu.release_roots(self.guest, &mut self.roots);
        done(self.mmu.release_domain(self.guest, &mut Budget::unlimited()))?;
        if self.mmu.frames_of(self.guest) != 0 {
            return Err("the dead domain has frames left".into());
        }
        std::mem::swap(&mut self.guest, &mut self.victim);
        let tables = self.main.into_iter().chain(self.spare).chain([self.other_root]);
        let pages = self.pages.iter().chain(&self.others).copied();
        let all: Vec<Mfn> = tables.chain(pages).chain([self.code, self.stack, self.mailbox]).collect();
        for _ in &all {
            let frame = self.mmu.allocate(self.guest).map_err(|refusal| refusal.to_string())?;
            if !all.contains(&frame) {
                return Err(format!("{frame} was not the dead domain's").into());
            }
        }
        if moves {
            let [a, b, c, d] = self.main;
            let [e, f, g, h] = self.spare;
            (self.main, self.spare) = ([h, a, b, c], [d, e, f, g]);
        }
        Ok(())
    }

    /// What a domain reborn maps: its code, and nothing else. The pages under test go to the dead one's successor.
    pub fn settle_in(&mut self, code: &[u8]) -> Result<(), Failed> {
        self.give_away(&self.pages)?;
        self.mmu.memory().write(self.code, 0, code)?;
        for path in [self.main, self.spare] {
            self.draft_path(path)?;
        }
        self.draft(self.other_root, Level::L4, CODE, rw(self.main[2]))?;
        self.take_up_roots()
    }

    /// Nothing is counted wrong at the end.
    pub fn audit(&self) -> Result<(), Failed> {
        let lent: Vec<_> =
            self.places().filter(|(_, page)| self.mmu.owner(*page) == Some(self.victim)).collect();
        let found = self.mmu.audit_lending(&self.roots.held().collect::<Vec<_>>(), &lent);
        if found.is_empty() { Ok(()) } else { Err(found.join("; ").into()) }
    }
}

fn done(outcome: Result<Progress, hypervisor::error::Failure>) -> Result<(), Failed> {
    match outcome? {
        Progress::Done => Ok(()),
        Progress::Preempted => Err("interrupted without a limit".into()),
    }
}
