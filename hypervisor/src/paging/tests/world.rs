//! A machine with an `Mmu`, and what tests do all the time.

use super::witness::Witness;
use crate::error::Failure;
use crate::frame::{FrameType, ReferenceKind};
use crate::machine::Translations;
use crate::machine::fake::{FakeMachine, Kind};
use crate::paging::{Batch, Budget, Mmu, Progress, Roots};
use pv_abi::mmu::{MmuUpdate, MmuUpdateKind};
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Mfn};
use std::sync::Arc;

pub const A: DomId = DomId(1);
pub const B: DomId = DomId(2);

pub const RO: PteFlags = PteFlags::PRESENT;
pub const RW: PteFlags = PteFlags::PRESENT.union(PteFlags::WRITABLE);

/// The address of page `index` of a [`Tree`].
pub const fn address(index: usize) -> u64 {
    (index as u64) << 12
}

pub fn ro(mfn: Mfn) -> Pte {
    Pte::new(mfn, RO)
}

pub fn rw(mfn: Mfn) -> Pte {
    Pte::new(mfn, RW)
}

/// One table of each level, each named by entry 0 of the one above, and some pages.
#[derive(Clone, Debug)]
pub struct Tree {
    pub domain: DomId,
    pub l4: Mfn,
    pub l3: Mfn,
    pub l2: Mfn,
    pub l1: Mfn,
    pub pages: Vec<Mfn>,
}

impl Tree {
    pub fn table(&self, level: Level) -> Mfn {
        match level {
            Level::L1 => self.l1,
            Level::L2 => self.l2,
            Level::L3 => self.l3,
            Level::L4 => self.l4,
        }
    }
}

pub struct World {
    pub machine: FakeMachine,
    pub mmu: Arc<Mmu>,
}

impl World {
    pub fn new() -> Self {
        Self::of_kind(Kind::Hardware)
    }

    pub fn of_kind(kind: Kind) -> Self {
        let machine = FakeMachine::of_kind(128, kind);
        let translations = Arc::clone(&machine.translations);
        Self::settled_by(machine, translations)
    }

    /// A machine whose changes something else makes take effect.
    pub fn settled_by(machine: FakeMachine, translations: Arc<dyn Translations>) -> Self {
        let witness = Arc::new(Witness::new(translations));
        let (memory, layout) = (Arc::clone(&machine.memory), Arc::clone(&machine.layout));
        let mmu = Arc::new(Mmu::new(memory, layout, Arc::clone(&witness) as Arc<dyn Translations>));
        witness.watch(&mmu);
        Self { machine, mmu }
    }

    pub fn page(&self, domain: DomId) -> Mfn {
        self.mmu.allocate(domain).unwrap()
    }

    /// Writes an entry as the guest would while the frame is an ordinary page.
    pub fn poke(&self, frame: Mfn, index: usize, entry: Pte) {
        self.machine.memory.exchange_entry(frame, index, entry, 0).unwrap();
    }

    /// A frame with these entries; no table yet.
    pub fn draft(&self, domain: DomId, entries: &[(usize, Pte)]) -> Mfn {
        let frame = self.page(domain);
        entries.iter().for_each(|&(index, entry)| self.poke(frame, index, entry));
        frame
    }

    /// A tree that maps `pages` writable pages; not validated yet.
    pub fn tree(&self, domain: DomId, pages: usize) -> Tree {
        let pages: Vec<Mfn> = (0..pages).map(|_| self.page(domain)).collect();
        let entries: Vec<_> = pages.iter().map(|&mfn| rw(mfn)).enumerate().collect();
        let l1 = self.draft(domain, &entries);
        let l2 = self.draft(domain, &[(0, rw(l1))]);
        let l3 = self.draft(domain, &[(0, rw(l2))]);
        let l4 = self.draft(domain, &[(0, rw(l3))]);
        Tree { domain, l4, l3, l2, l1, pages }
    }

    /// The roots of a vCPU whose kernel root is the L4 table of `tree`. Validates the tree where nobody has yet.
    pub fn start(&self, tree: &Tree) -> Roots {
        let mut roots = Roots::default();
        self.base(tree.domain, &mut roots, tree.l4).unwrap();
        roots
    }

    pub fn base(&self, domain: DomId, roots: &mut Roots, root: Mfn) -> Result<(), Failure> {
        done(self.mmu.new_baseptr(domain, roots, root, &mut Budget::unlimited()))
    }

    pub fn pin(&self, domain: DomId, mfn: Mfn, level: Level) -> Result<(), Failure> {
        done(self.mmu.pin(domain, mfn, level, &mut Budget::unlimited()))
    }

    pub fn unpin(&self, domain: DomId, mfn: Mfn) -> Result<(), Failure> {
        done(self.mmu.unpin(domain, mfn, &mut Budget::unlimited()))
    }

    /// One update in a batch of its own.
    pub fn set(&self, domain: DomId, table: Mfn, index: usize, entry: Pte) -> Result<(), Failure> {
        self.update(domain, table.address() + index as u64 * 8, entry.0)
    }

    pub fn update(&self, domain: DomId, ptr: u64, val: u64) -> Result<(), Failure> {
        self.batch(domain, |mmu, batch| done(mmu.mmu_update(MmuUpdate { ptr, val }, batch)))
    }

    pub fn update_kind(
        &self,
        domain: DomId,
        place: (Mfn, usize),
        kind: MmuUpdateKind,
        entry: Pte,
    ) -> Result<(), Failure> {
        self.update(domain, place.0.address() + place.1 as u64 * 8 + kind.0, entry.0)
    }

    pub fn batch(
        &self,
        domain: DomId,
        action: impl FnOnce(&Mmu, &mut Batch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut batch = Batch::new(domain, Budget::unlimited());
        let outcome = action(&self.mmu, &mut batch);
        self.mmu.finish(batch).and(outcome)
    }

    /// Nothing may be counted wrong, and no pcpu may have what the tables do not say.
    pub fn check(&self, roots: &[&Roots]) {
        let held: Vec<_> = roots.iter().flat_map(|roots| roots.held()).collect();
        self.check_with(&held);
    }

    pub fn check_with(&self, held: &[(Mfn, ReferenceKind)]) {
        assert_eq!(self.mmu.audit(held), Vec::<String>::new());
        assert_eq!(self.stale(), Vec::<String>::new());
    }

    /// What pcpus still have and the tables do not say any more.
    pub fn stale(&self) -> Vec<String> {
        self.mmu.stale(self.machine.translations.derived())
    }

    /// The domain dies, and everything must come back.
    pub fn end(&self, domain: DomId, roots: &mut Roots) {
        self.end_beside(domain, roots, &[]);
    }

    /// The same, while others go on.
    pub fn end_beside(&self, domain: DomId, roots: &mut Roots, others: &[&Roots]) {
        self.mmu.release_roots(domain, roots);
        done(self.mmu.release_domain(domain, &mut Budget::unlimited())).unwrap();
        assert_eq!(self.mmu.frames_of(domain), 0, "{domain} left frames behind");
        self.check(others);
    }

    pub fn access(&self, root: Mfn, address: u64, write: bool) -> Result<Mfn, crate::machine::fake::Fault> {
        self.machine.translations.access(0, root, address, write)
    }
}

/// Without an end to the budget nothing is preempted.
pub fn done(outcome: Result<Progress, Failure>) -> Result<(), Failure> {
    assert_eq!(outcome?, Progress::Done);
    Ok(())
}

/// The reason of a refusal.
pub fn why<T>(outcome: Result<T, Failure>) -> &'static str {
    match outcome {
        Ok(_) => "nothing was refused",
        Err(Failure::Refused(refusal)) => refusal.why,
        Err(other) => panic!("{other}"),
    }
}

/// The type that the frame table has for a frame.
pub fn kind(world: &World, mfn: Mfn) -> FrameType {
    world.mmu.frames().word(mfn).kind
}
