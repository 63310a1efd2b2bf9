//! The implementation on a machine with short tables, driven by the model's operations and compared with it.

use crate::state::{DOMAINS, ENTRIES, Entry, Op, State, Stop, Use};
use hypervisor::error::Failure;
use hypervisor::frame::{FrameType, Phase, Reference, Word};
use hypervisor::machine::fake::FakeMachine;
use hypervisor::paging::{Batch, Budget, Mmu, Progress, Roots, Snapshot};
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Pte, PteFlags};
use pv_abi::{DomId, Mfn};

/// The implementation, and the tokens that a domain's vCPU and back-ends keep.
pub struct Real {
    mmu: Mmu,
    roots: Vec<Roots>,
    held: Vec<Reference>,
    first: u64,
}

/// What an operation did, and the frame that it gave.
pub type Outcome = (Result<(), Stop>, Option<u8>);

const fn id(domain: u8) -> DomId {
    DomId(domain as u16 + 1)
}

impl Real {
    pub fn new(frames: usize) -> Self {
        let machine = FakeMachine::short(frames as u64, ENTRIES);
        let first = machine.layout.first_free.0;
        let mmu = Mmu::new(machine.memory, machine.layout, machine.translations);
        Self { mmu, roots: (0..DOMAINS).map(|_| Roots::default()).collect(), held: Vec::new(), first }
    }

    fn mfn(&self, frame: u8) -> Mfn {
        Mfn(self.first + u64::from(frame))
    }

    fn pte(&self, entry: Entry) -> Pte {
        let writable = |yes| if yes { PteFlags::WRITABLE } else { PteFlags::empty() };
        match entry {
            Entry::Absent => Pte(0),
            Entry::Maps { frame, writable: yes } => {
                Pte::new(self.mfn(frame), PteFlags::PRESENT | writable(yes))
            }
            Entry::Bad(frame) => Pte::new(self.mfn(frame), PteFlags::PRESENT | PteFlags::PROTECTION_KEY),
        }
    }

    /// One call of the operation.
    pub fn call(&mut self, domain: u8, op: Op, budget: u32) -> Result<Outcome, String> {
        let (domain, slot, mut budget) = (id(domain), usize::from(domain), Budget::new(budget));
        let mut given = None;
        let outcome = match op {
            Op::Allocate | Op::AllocateShared => {
                let shared = op == Op::AllocateShared;
                let taken = if shared { self.mmu.allocate_shared(domain) } else { self.mmu.allocate(domain) };
                given = taken.ok().map(|mfn| (mfn.0 - self.first) as u8);
                taken.map(|_| Progress::Done).map_err(Failure::from)
            }
            Op::Deallocate(frame) => {
                let outcome = self.mmu.deallocate(domain, self.mfn(frame));
                outcome.map(|()| Progress::Done).map_err(Failure::from)
            }
            Op::Write(frame, index, entry) => {
                let ptr = self.mfn(frame).address() + u64::from(index) * 8;
                let request = MmuUpdate { ptr, val: self.pte(entry).0 };
                let mut batch = Batch::new(domain, budget);
                let outcome = self.mmu.mmu_update(request, &mut batch);
                self.mmu.finish(batch).and(outcome)
            }
            Op::WriteAt(indices, entry) => {
                let address = indices.iter().fold(0, |bits, &index| bits << 9 | u64::from(index)) << 12;
                let Some(root) = self.roots[slot].kernel() else { return Ok((Err(Stop::Refused), None)) };
                let mut batch = Batch::new(domain, budget);
                let outcome = self.mmu.update_va_mapping(root, address, self.pte(entry), &mut batch);
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
            Op::Die => {
                let released = self.mmu.release_roots(domain, &mut self.roots[slot]);
                released.and_then(|()| self.mmu.release_domain(domain, &mut budget))
            }
        };
        match outcome {
            Ok(Progress::Done) => Ok((Ok(()), given)),
            Ok(Progress::Preempted) => Ok((Err(Stop::Preempted), given)),
            Err(Failure::Refused(_)) => Ok((Err(Stop::Refused), given)),
            Err(other) => Err(format!("{op:?} of {domain}: {other}")),
        }
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

    /// The implementation's own recount.
    pub fn audit(&self) -> Result<(), String> {
        let roots = self.roots.iter().flat_map(Roots::held);
        let held: Vec<_> = roots.chain(self.held.iter().map(|one| (one.mfn(), one.kind()))).collect();
        let found = self.mmu.audit(&held);
        if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
    }

    pub fn snapshot(&self) -> Snapshot {
        self.mmu.snapshot(&self.roots, &self.held)
    }

    pub fn restore(&mut self, to: &Snapshot) {
        (self.roots, self.held) = self.mmu.restore(to);
    }

    /// Where the two disagree, if they do: owner, type, phase, both counts, marks and contents of every frame.
    pub fn differs(&self, model: &State) -> Option<String> {
        let references = model.references();
        for (number, (frame, found)) in model.frames.iter().zip(references).enumerate() {
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
        let owned: u64 = (0..DOMAINS as u8).map(|domain| self.frames_of(domain)).sum();
        let free = self.mmu.free_frames();
        (owned + free != model.frames.len() as u64).then(|| format!("{owned} owned and {free} free frames"))
    }

    fn holds(&self, mfn: Mfn, index: usize, entry: Entry) -> bool {
        let decisive = Pte::FRAME_MASK | PteFlags::PROTECTION_KEY.bits() | 3;
        let found = self.mmu.memory().entry(mfn, index).unwrap_or_default();
        (found.0 ^ self.pte(entry).0) & decisive == 0
    }

    /// Frames that were freed are zero when they are given again.
    pub fn is_zero(&self, frame: u8) -> bool {
        (0..ENTRIES).all(|index| self.mmu.memory().entry(self.mfn(frame), index) == Ok(Pte(0)))
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
