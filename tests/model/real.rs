//! The implementation on a machine with short tables, driven by the model's operations and compared with it.

use crate::grants::{READING, WRITING};
use crate::state::{DOMAINS, ENTRIES, Entry, Op, State, Stop, Use};
use crate::witness::Witness;
use hypervisor::domain::grants::{GrantTable, Maptrack};
use hypervisor::domain::{Domain, NoConsole, Parts, SharedPage, Wake};
use hypervisor::error::Failure;
use hypervisor::frame::{FrameType, Phase, Reference, Word};
use hypervisor::grant::{entries_of, unmap_all};
use hypervisor::machine::MachineMemory;
use hypervisor::machine::fake::{FakeMachine, FakeTranslations};
use hypervisor::paging::{Batch, Budget, Mmu, Progress, Roots, Snapshot};
use hypervisor::vcpu::VcpuKey;
use pv_abi::grant_table::GrantEntry;
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Pte, PteFlags};
use pv_abi::{DomId, Mfn, PAGE_SIZE};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// The implementation, and the tokens that a domain's vCPU and back-ends keep.
pub struct Real {
    pub mmu: Mmu,
    pub roots: Vec<Roots>,
    held: Vec<Reference>,
    first: u64,
    frames: u8,
    memory: Arc<MachineMemory>,
    pub translations: Arc<FakeTranslations>,
    /// Those that there are, by number.
    pub domains: Vec<Arc<Domain>>,
    /// Those that died; mappings may still name them.
    pub dead: Vec<Arc<Domain>>,
    pub witness: Arc<Witness>,
}

/// All of it, to go back to.
pub struct AtRest {
    mmu: Snapshot,
    /// The last word of each frame.
    tails: Vec<u64>,
    domains: Vec<Arc<Domain>>,
    dead: Vec<Arc<Domain>>,
    grants: Vec<(GrantTable, Maptrack)>,
}

/// An offset. No table that is so short has an entry there.
const LAST_WORD: usize = PAGE_SIZE - 8;
/// What whoever gets a frame writes there. As a descriptor it is not present.
const MARK: u64 = 1;

/// What an operation did, and the frame or the handle that it gave.
pub type Outcome = (Result<(), Stop>, Option<u8>);

/// Numbers so high that no entry of a page table, taken for one of a grant table, permits anything.
pub const fn id(domain: u8) -> DomId {
    DomId(domain as u16 + 101)
}

#[derive(Debug)]
struct Nobody;

impl Wake for Nobody {
    fn wake(&self, _: VcpuKey) {}
}

impl Real {
    pub fn new(frames: usize) -> Self {
        let machine = FakeMachine::short(frames as u64, ENTRIES);
        let first = machine.layout.first_free.0;
        let (memory, translations) = (machine.memory.clone(), machine.translations);
        let witness = Arc::new(Witness::new(memory.clone(), translations.clone()));
        let mmu = Mmu::new(machine.memory, machine.layout, witness.clone());
        let roots = (0..DOMAINS).map(|_| Roots::default()).collect();
        let (held, domains, dead) = (Vec::new(), Vec::new(), Vec::new());
        let frames = frames as u8;
        let mut real = Self { mmu, roots, held, first, frames, memory, translations, domains, dead, witness };
        real.domains = (0..DOMAINS as u8).map(|domain| real.new_domain(domain)).collect();
        real
    }

    /// A domain without vCPUs.
    fn new_domain(&self, domain: u8) -> Arc<Domain> {
        // Nobody looks at its page.
        let shared = SharedPage::new(self.memory.clone(), Mfn(0)).unwrap_or_else(|error| panic!("{error}"));
        let (console, wake) = (Arc::new(NoConsole), Arc::new(Nobody));
        let (id, name, vcpus, maximum_pages) = (id(domain), String::new(), Vec::new(), 0);
        Arc::new(Domain::new(Parts { id, name, shared, vcpus, maximum_pages, console, wake }))
    }

    pub fn mfn(&self, frame: u8) -> Mfn {
        Mfn(self.first + u64::from(frame))
    }

    pub fn all_frames(&self) -> impl Iterator<Item = Mfn> + use<'_> {
        (0..self.frames).map(|frame| self.mfn(frame))
    }

    pub const fn frame_number(&self, mfn: Mfn) -> u8 {
        (mfn.0 - self.first) as u8
    }

    fn pte(&self, entry: Entry) -> Pte {
        let writable = |yes| if yes { PteFlags::WRITABLE } else { PteFlags::empty() };
        match entry {
            Entry::Absent => Pte(0),
            Entry::Maps { frame, writable: yes } => {
                Pte::new(self.mfn(frame), PteFlags::PRESENT | writable(yes))
            }
            Entry::Bad(frame) => Pte::new(self.mfn(frame), PteFlags::PRESENT | PteFlags::PROTECTION_KEY),
            Entry::Lent { frame, writable: yes } => {
                let flags = PteFlags::PRESENT | PteFlags::USER | PteFlags::ACCESSED | PteFlags::NO_EXECUTE;
                Pte::new(self.mfn(frame), flags | writable(yes))
            }
            Entry::Grant(grant) => {
                let bit = |yes: bool, bit| if yes { bit } else { 0 };
                let flags = GrantEntry::PERMIT_ACCESS
                    | bit(grant.read_only, GrantEntry::READ_ONLY)
                    | bit(grant.marks & READING != 0, GrantEntry::READING)
                    | bit(grant.marks & WRITING != 0, GrantEntry::WRITING);
                let (domid, frame) = (id(grant.to).0, self.mfn(grant.frame).0 as u32);
                let mut word = 0_u64;
                word.as_mut_bytes().copy_from_slice(GrantEntry { flags, domid, frame }.as_bytes());
                Pte(word)
            }
        }
    }

    /// One call of the operation.
    pub fn call(&mut self, domain: u8, op: Op, budget: u32) -> Result<Outcome, String> {
        let (by, domain, slot, mut budget) = (domain, id(domain), usize::from(domain), Budget::new(budget));
        let mut given = None;
        let outcome = match op {
            Op::Allocate | Op::AllocateShared => {
                let shared = op == Op::AllocateShared;
                let taken = if shared { self.mmu.allocate_shared(domain) } else { self.mmu.allocate(domain) };
                given = taken.ok().map(|mfn| self.frame_number(mfn));
                taken.map(|_| Progress::Done).map_err(Failure::from)
            }
            Op::Deallocate(frame) => {
                let outcome = self.mmu.deallocate(domain, self.mfn(frame));
                outcome.map(|()| Progress::Done).map_err(Failure::from)
            }
            Op::Write(frame, index, entry) => self.write(by, self.mfn(frame), index, entry, budget),
            Op::Lend(reference, entry) => {
                let table = self.domains[slot].grants().lock().frames().first().copied();
                let Some(table) = table else { return Ok((Err(Stop::Refused), None)) };
                self.write(by, table, reference, entry, budget)
            }
            Op::SetUp | Op::Map { .. } | Op::Unmap(..) | Op::Replace(..) | Op::Copy { .. } => {
                return self.grant_table_op(by, op, budget);
            }
            Op::WriteAt(indices, entry) => {
                let address = indices.iter().fold(0, |bits, &index| bits << 9 | u64::from(index)) << 12;
                let Some(root) = self.roots[slot].kernel() else { return Ok((Err(Stop::Refused), None)) };
                let mut batch = Batch::new(domain, budget);
                let outcome = self.mmu.update_va_mapping(root.mfn(), address, self.pte(entry), &mut batch);
                self.mmu.finish(batch).and(outcome)
            }
            Op::Pin(frame, level) => self.mmu.pin(domain, self.mfn(frame), level, &mut budget),
            Op::Unpin(frame) => self.mmu.unpin(domain, self.mfn(frame), &mut budget),
            Op::Base(mode, root) => {
                let (root, roots) = (root.map(|frame| self.mfn(frame)), &mut self.roots[slot]);
                match (mode, root) {
                    (0, Some(root)) => self.mmu.new_baseptr(domain, roots, root, &mut budget),
                    _ => self.mmu.new_user_baseptr(domain, roots, root, &mut budget),
                }
            }
            Op::Hold(frame, what) => self.hold(domain, frame, what),
            Op::Release(number) => {
                if usize::from(number) < self.held.len() {
                    self.mmu.release(self.held.remove(number.into()));
                }
                Ok(Progress::Done)
            }
            Op::Die => self.die(by, &mut budget),
        };
        match outcome {
            Ok(Progress::Done) => Ok((Ok(()), given)),
            Ok(Progress::Preempted) => Ok((Err(Stop::Preempted), given)),
            Err(Failure::Refused(_)) => Ok((Err(Stop::Refused), given)),
            Err(other) => Err(format!("{op:?} of {domain}: {other}")),
        }
    }

    fn write(
        &self,
        by: u8,
        frame: Mfn,
        index: u8,
        entry: Entry,
        budget: Budget,
    ) -> Result<Progress, Failure> {
        let ptr = frame.address() + u64::from(index) * 8;
        let request = MmuUpdate { ptr, val: self.pte(entry).0 };
        let mut batch = Batch::new(id(by), budget);
        let outcome = self.mmu.mmu_update(request, &mut batch);
        self.mmu.finish(batch).and(outcome)
    }

    /// As whoever takes ended domains apart does it.
    fn die(&mut self, by: u8, budget: &mut Budget) -> Result<Progress, Failure> {
        let slot = usize::from(by);
        self.domains[slot].grants().lock().close();
        self.mmu.release_roots(id(by), &mut self.roots[slot]);
        let released = self.mmu.release_domain(id(by), budget)?;
        if released == Progress::Done {
            unmap_all(&self.mmu, &self.domains[slot]);
            let next = self.new_domain(by);
            self.dead.push(std::mem::replace(&mut self.domains[slot], next));
        }
        Ok(released)
    }

    fn hold(&mut self, domain: DomId, frame: u8, what: Use) -> Result<Progress, Failure> {
        let mfn = self.mfn(frame);
        self.held.push(match what {
            Use::Descriptors => self.mmu.hold_descriptors(domain, mfn)?,
            _ => self.mmu.hold(domain, mfn, what == Use::Write)?,
        });
        Ok(Progress::Done)
    }

    /// Does what calls left over, `budget` steps at a time; after each, every count must be right.
    pub fn drain(&self, budget: u32) -> Result<(), String> {
        for domain in 0..DOMAINS as u8 {
            for calls in 0.. {
                match self.mmu.drain(id(domain), &mut Budget::new(budget)) {
                    Ok(Progress::Done) => break,
                    Ok(Progress::Preempted) => self.audit()?,
                    Err(failure) => return Err(failure.to_string()),
                }
                if calls > 1000 {
                    return Err("a teardown never ends".into());
                }
            }
        }
        Ok(())
    }

    /// The implementation's own recount; and no pcpu has what is stale.
    pub fn audit(&self) -> Result<(), String> {
        let roots = self.roots.iter().flat_map(Roots::held);
        let held: Vec<_> = roots.chain(self.held.iter().map(|one| (one.mfn(), one.kind()))).collect();
        let lent: Vec<_> = self.domains.iter().flat_map(|domain| entries_of(domain)).collect();
        let found = self.mmu.audit_lending(&held, &lent);
        if found.is_empty() { self.check_caches() } else { Err(found.join("; ")) }
    }

    pub fn at_rest(&self) -> AtRest {
        let grants = |domain: &Arc<Domain>| {
            let maptrack = domain.maptrack().lock().clone();
            (domain.grants().lock().clone(), maptrack)
        };
        AtRest {
            mmu: self.mmu.snapshot(&self.roots, &self.held),
            tails: self
                .all_frames()
                .map(|mfn| self.memory.load_u64(mfn, LAST_WORD).unwrap_or_default())
                .collect(),
            domains: self.domains.clone(),
            dead: self.dead.clone(),
            grants: self.domains.iter().chain(&self.dead).map(grants).collect(),
        }
    }

    pub fn go_back(&mut self, to: &AtRest) {
        (self.roots, self.held) = self.mmu.restore(&to.mmu);
        self.all_frames().zip(&to.tails).for_each(|(mfn, &word)| self.end_with(mfn, word));
        self.domains.clone_from(&to.domains);
        self.dead.clone_from(&to.dead);
        for (domain, (table, maptrack)) in self.domains.iter().chain(&self.dead).zip(&to.grants) {
            domain.grants().lock().clone_from(table);
            domain.maptrack().lock().clone_from(maptrack);
        }
    }

    /// Where the two disagree about frames of such owners, if they do: owner, type, phase, both counts, marks and
    /// contents.
    pub fn differs_in_frames(&self, model: &State, of: impl Fn(Option<u8>) -> bool) -> Option<String> {
        let references = model.references();
        let all = model.frames.iter().zip(references).enumerate();
        for (number, (frame, found)) in all.filter(|(_, (frame, _))| of(frame.owner)) {
            let mfn = self.mfn(number as u8);
            let typed = found.typed().next();
            let expected = Word {
                general: found.total() + u32::from(frame.allocated),
                uses: typed.map_or(0, |(_, count)| count),
                kind: typed.map_or(FrameType::None, |(what, _)| frame_type(what)),
                phase: if frame.partial.is_some() { Phase::Validating } else { Phase::Valid },
                pinned: frame.pinned.is_some(),
                allocated: frame.allocated,
                permanent: frame.permanent,
            };
            let word = self.mmu.frames().word(mfn);
            if word != expected {
                return Some(format!("frame {number} is {word:?}, and by the model {expected:?}"));
            }
            if let Some(rule) = word.inconsistency() {
                return Some(format!("frame {number}: {rule}"));
            }
            let owner = self.mmu.frames().owner(mfn);
            if owner != frame.owner.map(id) {
                return Some(format!("frame {number} is {owner:?}'s, and by the model {:?}'s", frame.owner));
            }
            if frame.owner.is_some()
                && !(0..ENTRIES).all(|index| self.holds(mfn, index, frame.contents[index]))
            {
                return Some(format!("frame {number} does not hold {:?}", frame.contents));
            }
        }
        None
    }

    /// Where the two disagree, about anything.
    pub fn differs(&self, model: &State) -> Option<String> {
        if let Some(why) = self.differs_in_frames(model, |_| true) {
            return Some(why);
        }
        if let Some(why) = self.differs_in_grants(model) {
            return Some(why);
        }
        let owned: u64 = (0..DOMAINS as u8).map(|domain| self.frames_of(domain)).sum();
        let free = self.mmu.free_frames();
        (owned + free != model.frames.len() as u64).then(|| format!("{owned} owned and {free} free frames"))
    }

    pub fn holds(&self, mfn: Mfn, index: usize, entry: Entry) -> bool {
        let flags = PteFlags::PROTECTION_KEY | PteFlags::NO_EXECUTE | PteFlags::PRESENT | PteFlags::WRITABLE;
        let decisive = if let Entry::Grant(_) = entry { u64::MAX } else { Pte::FRAME_MASK | flags.bits() };
        let found = self.mmu.memory().entry(mfn, index).unwrap_or_default();
        (found.0 ^ self.pte(entry).0) & decisive == 0
    }

    /// Frames that were freed are zero when they are given again, to the last word. There the new owner writes.
    pub fn is_zero(&self, frame: u8) -> bool {
        let (mfn, mut page) = (self.mfn(frame), [u8::MAX; PAGE_SIZE]);
        let is_read = self.memory.read(mfn, 0, &mut page).is_ok();
        self.end_with(mfn, MARK);
        is_read && page == [0; PAGE_SIZE]
    }

    fn end_with(&self, mfn: Mfn, word: u64) {
        if let Err(missing) = self.memory.store_u64(mfn, LAST_WORD, word) {
            panic!("{missing}");
        }
    }

    /// Frames that a domain has.
    pub fn frames_of(&self, domain: u8) -> u64 {
        self.mmu.frames_of(id(domain))
    }
}

const fn frame_type(what: Use) -> FrameType {
    match what {
        Use::Read => FrameType::None,
        Use::Write => FrameType::Writable,
        Use::Descriptors => FrameType::Descriptors,
        Use::Table(level) => FrameType::Table(level),
    }
}
