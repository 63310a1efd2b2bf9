//! A guest that does anything, by a seed.

use super::world::{RO, RW, World, address};
use crate::error::Failure;
use crate::frame::FrameType;
use crate::fuzzing::{Choices, Random};
use crate::machine::Root;
use crate::machine::fake::PCPUS;
use crate::paging::{Batch, Budget, Progress, Roots};
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Mfn};

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> Option<T> {
    let index = random.below(from.len().max(1) as u64) as usize;
    from.get(index).copied()
}

/// How many operations of an actor were done, refused and preempted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outcomes {
    pub done: u32,
    pub refused: u32,
    pub preempted: u32,
}

/// A vCPU of a guest that knows no good.
pub struct Actor {
    pub domain: DomId,
    pub roots: Roots,
    pub outcomes: Outcomes,
    random: Random,
    /// Frames that it tries things with: mostly its own.
    frames: Vec<Mfn>,
}

/// Few indices, so that things meet.
const INDICES: [u64; 6] = [0, 1, 2, 255, 256, 511];

impl Actor {
    pub fn new(domain: DomId, seed: u64, frames: Vec<Mfn>) -> Self {
        let (roots, outcomes, random) = (Roots::default(), Outcomes::default(), Random::new(seed));
        Self { domain, roots, outcomes, random, frames }
    }

    /// One thing, whatever it is. Nothing that a guest does is the machine's failure.
    pub fn act(&mut self, world: &World) {
        let outcome = match self.random.below(16) {
            0..=5 => self.update_some(world),
            6 => self.update_mapping(world),
            7 | 8 => self.pin(world),
            9 => self.unpin(world),
            10 | 11 => self.change_roots(world),
            12 => self.reallocate(world),
            13 => self.copy(world),
            _ => self.touch(world),
        };
        match outcome {
            Ok(Progress::Done) => self.outcomes.done += 1,
            Ok(Progress::Preempted) => {}
            Err(Failure::Refused(_)) => self.outcomes.refused += 1,
            Err(other) => panic!("{}: {other}", self.domain),
        }
    }

    /// Any frame, mostly one of its own.
    fn frame(&mut self) -> Mfn {
        if self.random.below(20) == 0 {
            return Mfn(self.random.below(130));
        }
        pick(&mut self.random, &self.frames).unwrap_or(Mfn(0))
    }

    /// A frame that is one of these now, if the guest finds one: a guest knows what its frames are.
    fn frame_of(&mut self, world: &World, kinds: &[FrameType]) -> Mfn {
        let frame = |actor: &mut Self| pick(&mut actor.random, &actor.frames).unwrap_or(Mfn(0));
        let fits = |&mfn: &Mfn| kinds.contains(&world.mmu.frames().word(mfn).kind);
        (0..12).map(|_| frame(self)).find(fits).unwrap_or_else(|| frame(self))
    }

    /// An entry that a sensible guest would put into a table of that level.
    fn sensible(&mut self, world: &World, level: Level) -> Pte {
        if self.random.below(4) == 0 {
            return Pte(0);
        }
        let (kinds, flags) = match level.below() {
            Some(below) => (vec![FrameType::None, FrameType::Table(below)], RW),
            None if self.random.below(2) == 0 => (FrameType::ALL.to_vec(), RO),
            None => (vec![FrameType::None, FrameType::Writable], RW),
        };
        Pte::new(self.frame_of(world, &kinds), flags)
    }

    /// Where to write what: sometimes anything anywhere.
    fn update(&mut self, world: &World) -> MmuUpdate {
        let index = pick(&mut self.random, &INDICES).unwrap_or(0);
        let kind = pick(&mut self.random, &[0, 0, 0, 0, 0, 1, 2, 3]).unwrap_or(0);
        let level = self.level();
        if self.random.below(4) == 0 {
            return MmuUpdate { ptr: self.frame().address() + index * 8 + kind, val: self.entry().0 };
        }
        let table = self.frame_of(world, &[FrameType::Table(level)]);
        MmuUpdate { ptr: table.address() + index * 8 + kind, val: self.sensible(world, level).0 }
    }

    /// Makes a call until it is not interrupted, or gives it up in the middle.
    fn persist(
        &mut self,
        mut call: impl FnMut(&mut Self, Budget) -> Result<Progress, Failure>,
    ) -> Result<Progress, Failure> {
        let steps = [1, 30, 700, 5000][self.random.below(4) as usize];
        let calls = if self.random.below(8) == 0 { 2 } else { 5000 };
        let mut outcome = Ok(Progress::Done);
        for _ in 0..calls {
            outcome = call(self, Budget::new(steps));
            if !matches!(outcome, Ok(Progress::Preempted)) {
                return outcome;
            }
            self.outcomes.preempted += 1;
        }
        outcome
    }

    fn entry(&mut self) -> Pte {
        let flags = match self.random.below(12) {
            0..=2 => return Pte(0),
            3 => PteFlags::from_bits_retain(
                self.random.word() << 16 & !Pte::FRAME_MASK | self.random.below(4096),
            ),
            4..=7 => PteFlags::PRESENT,
            8 => PteFlags::PRESENT | PteFlags::ACCESSED | PteFlags::AVAIL0,
            _ => PteFlags::PRESENT | PteFlags::WRITABLE,
        };
        Pte::new(self.frame(), flags)
    }

    fn level(&mut self) -> Level {
        Level::ALL[self.random.below(4) as usize]
    }

    fn address(&mut self) -> u64 {
        let index = |random: &mut Random| pick(random, &INDICES).unwrap_or(0);
        let bits = (0..4).fold(0, |bits, _| bits << 9 | index(&mut self.random)) << 12;
        let extended = ((bits << 16) as i64 >> 16) as u64;
        if self.random.below(2) == 0 { extended } else { address(self.random.below(3) as usize) }
    }

    fn update_some(&mut self, world: &World) -> Result<Progress, Failure> {
        let updates: Vec<_> = (0..=self.random.below(4)).map(|_| self.update(world)).collect();
        let mut made = 0;
        self.persist(|actor, budget| {
            let mut batch = Batch::new(actor.domain, budget);
            let mut outcome = Ok(Progress::Done);
            while let Some(&request) = updates.get(made) {
                outcome = world.mmu.mmu_update(request, &mut batch);
                if !matches!(outcome, Ok(Progress::Done)) {
                    break;
                }
                made += 1;
            }
            world.mmu.finish(batch).and(outcome)
        })
    }

    fn update_mapping(&mut self, world: &World) -> Result<Progress, Failure> {
        let Some(root) = self.roots.kernel().map(Root::mfn) else { return Ok(Progress::Done) };
        let (at, entry) = (self.address(), self.sensible(world, Level::L1));
        self.persist(|actor, budget| {
            let mut batch = Batch::new(actor.domain, budget);
            let outcome = world.mmu.update_va_mapping(root, at, entry, &mut batch);
            world.mmu.finish(batch).and(outcome)
        })
    }

    fn pin(&mut self, world: &World) -> Result<Progress, Failure> {
        let level = self.level();
        let frame = self.frame_of(world, &[FrameType::None, FrameType::Table(level)]);
        self.persist(|actor, mut budget| world.mmu.pin(actor.domain, frame, level, &mut budget))
    }

    fn unpin(&mut self, world: &World) -> Result<Progress, Failure> {
        let level = self.level();
        let frame = self.frame_of(world, &[FrameType::Table(level)]);
        self.persist(|actor, mut budget| world.mmu.unpin(actor.domain, frame, &mut budget))
    }

    fn change_roots(&mut self, world: &World) -> Result<Progress, Failure> {
        let frame = self.frame_of(world, &[FrameType::Table(Level::L4)]);
        let (user, none) = (self.random.below(3) == 0, self.random.below(2) == 0);
        self.persist(|actor, mut budget| {
            let (domain, roots) = (actor.domain, &mut actor.roots);
            if user {
                let root = (!none).then_some(frame);
                return world.mmu.new_user_baseptr(domain, roots, root, &mut budget);
            }
            world.mmu.new_baseptr(domain, roots, frame, &mut budget)
        })
    }

    fn reallocate(&mut self, world: &World) -> Result<Progress, Failure> {
        let frame = self.frame();
        world.mmu.deallocate(self.domain, frame)?;
        self.frames.retain(|&other| other != frame);
        self.frames.push(world.mmu.allocate(self.domain)?);
        Ok(Progress::Done)
    }

    fn copy(&mut self, world: &World) -> Result<Progress, Failure> {
        let Some(root) = self.roots.kernel().map(Root::mfn) else { return Ok(Progress::Done) };
        let at = self.address() + self.random.below(4096);
        let entry = self.entry();
        if self.random.below(2) == 0 {
            world.mmu.read::<[u64; 8]>(self.domain, root, at)?;
        } else {
            world.mmu.write(self.domain, root, at & !7, &entry.0)?; // what it writes may be used as an entry later
        }
        Ok(Progress::Done)
    }

    /// The guest itself uses an address.
    fn touch(&mut self, world: &World) -> Result<Progress, Failure> {
        let Some(root) = self.roots.kernel().map(Root::mfn) else { return Ok(Progress::Done) };
        let (at, write) = (self.address(), self.random.below(2) == 0);
        let pcpu = self.random.below(PCPUS as u64) as usize;
        let _ = world.machine.translations.access(pcpu, root, at, write); // it fills caches, or faults
        Ok(Progress::Done)
    }

    /// While nobody else acts: whatever the guest can reach at its usual addresses is its own.
    pub fn check_reach(&self, world: &World) {
        let Some(root) = self.roots.kernel().map(Root::mfn) else { return };
        for page in 0..3 {
            for write in [false, true] {
                let Ok(frame) = world.machine.translations.access(0, root, address(page), write) else {
                    continue;
                };
                assert_eq!(world.mmu.owner(frame), Some(self.domain), "{frame} at page {page}");
                assert!(!write || world.mmu.frames().word(frame).kind == FrameType::Writable, "{frame}");
            }
        }
    }
}
