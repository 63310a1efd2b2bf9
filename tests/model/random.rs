//! Random sequences on a larger machine, each call with a budget of its own, some given up in the middle. One that
//! fails is shrunk: what is printed fails, and no shorter part of it does.

use crate::aim::aimed;
use crate::grants::Grant;
use crate::pair::{FOR_EVER, Pair};
use crate::state::{At, ENTRIES, Entry, Op, Side, Stop, Use};
use pv_abi::page_table::Level;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub const FRAMES: usize = 15;

/// One step of a sequence: plain data, so that a part of a sequence is a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    domain: u8,
    /// Whether [`aimed`] has `op` name what is there: the domain's own frames and mappings.
    aims: bool,
    /// The same domain calls this directly before, and leaves its work to `op`.
    before: Option<Op>,
    op: Op,
    budget: u32,
    /// Calls after which it is given up, interrupted or not.
    calls: u32,
}

/// The generator xorshift64*. Its state must not be 0.
pub struct Random(pub u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }

    fn frame(&mut self) -> u8 {
        self.below(FRAMES as u64) as u8
    }

    /// Mostly a frame that is meant to be a table of `level`, or a page (0), so that trees grow.
    fn frame_for(&mut self, level: u64) -> u8 {
        if self.below(5) == 0 {
            return self.frame();
        }
        (level + 5 * self.below((FRAMES as u64 - level).div_ceil(5))) as u8
    }

    /// A table, and an entry for it: mostly of such a level that the table can be validated with it.
    fn write(&mut self) -> (u8, Entry) {
        let level = self.below(5);
        let to = self.frame_for(level.saturating_sub(1));
        let entry = match self.below(10) {
            0 | 1 => Entry::Absent,
            2 if self.below(3) == 0 => Entry::Bad(to),
            _ => Entry::Maps { frame: to, writable: self.below(3) > 0 },
        };
        (self.frame_for(level), entry)
    }

    fn pin(&mut self) -> Op {
        let level = self.below(4);
        Op::Pin(self.frame_for(level + 1), Level::ALL[level as usize])
    }

    fn index(&mut self) -> u8 {
        self.below(ENTRIES as u64) as u8
    }

    fn at(&mut self) -> At {
        match self.below(3) {
            0 => At::Linear([(); 4].map(|()| self.index())),
            _ => At::Entry(self.frame_for(1), self.index()),
        }
    }

    fn side(&mut self) -> Side {
        match self.below(3) {
            0 => Side::Own(self.frame_for(0)),
            _ => Side::Granted(self.below(2) as u8, self.index()),
        }
    }

    /// What an entry of a grant table may say.
    fn grant(&mut self) -> Entry {
        let marks = if self.below(8) == 0 { self.below(4) as u8 } else { 0 };
        let (to, frame, read_only) = (self.below(2) as u8, self.frame_for(0), self.below(4) == 0);
        if self.below(6) == 0 { Entry::Absent } else { Entry::Grant(Grant { to, frame, read_only, marks }) }
    }

    fn grant_op(&mut self) -> Op {
        let handle = self.below(4) as u8;
        let at = (self.below(4) == 0).then(|| self.at());
        match self.below(20) {
            0 | 1 => Op::SetUp,
            2..5 => Op::Lend(self.index(), self.grant()),
            5..11 => {
                let (granter, reference, writable) = (self.below(2) as u8, self.index(), self.below(2) == 0);
                Op::Map { granter, reference, writable, at: self.at() }
            }
            11..14 => Op::Unmap(handle, at),
            14 | 15 => Op::Replace(handle, at, [(); 4].map(|()| self.index())),
            _ => Op::Copy { word: self.index(), source: self.side(), dest: self.side() },
        }
    }

    fn op(&mut self) -> Op {
        match self.below(600) {
            0..60 => Op::Allocate,
            60 => Op::AllocateShared,
            61..66 => Op::Deallocate(self.frame()),
            66..220 => {
                let (frame, entry) = self.write();
                Op::Write(frame, self.index(), entry)
            }
            220..250 => Op::WriteAt([(); 4].map(|()| self.index()), self.write().1),
            250..300 => self.pin(),
            300..330 => Op::Unpin(self.frame()),
            330..360 => Op::Base(0, Some(self.frame_for(4))),
            360..368 => Op::Base(1, (self.below(3) > 0).then(|| self.frame_for(4))),
            368..378 => {
                let uses = [Use::Read, Use::Write, Use::Descriptors];
                Op::Hold(self.frame_for(0), uses[self.below(3) as usize])
            }
            378..399 => Op::Release(self.below(4) as u8),
            399 => Op::Die,
            _ => self.grant_op(),
        }
    }

    pub fn step(&mut self) -> Step {
        let (domain, op) = (self.below(4).saturating_sub(2) as u8, self.op());
        let is_mapping =
            |op| matches!(op, Op::Map { granter, .. } if granter != domain) || matches!(op, Op::Unmap(..));
        let before = (is_mapping(op) && self.below(3) == 0).then(|| Op::Unpin(self.frame()));
        let budget = [FOR_EVER, 1, 2, 3][self.below(4) as usize];
        let aims = self.below(4) > 0;
        Step { domain, aims, before, op, budget, calls: if self.below(4) == 0 { 1 } else { 1000 } }
    }
}

/// Plays a sequence on a new machine and ends all domains. How many calls were accepted, refused, interrupted; and how
/// many mapped what another domain lends.
pub fn play(steps: &[Step]) -> Result<[u64; 4], String> {
    let mut outcomes = [0; 4];
    let mut pair = Pair::new(FRAMES);
    for step in steps {
        let op = if step.aims { aimed(&pair.model, step.domain, step.op) } else { step.op };
        pair.touch();
        if op == Op::Die && step.budget != FOR_EVER {
            pair.step_by_step(step.domain, op)?; // a death is not given up
            outcomes[0] += 1;
            continue;
        }
        for _ in 0..step.calls {
            let outcome = match step.before {
                Some(before) => pair.one_behind_the_other(step.domain, before, op)?,
                None => pair.call(step.domain, op, step.budget)?,
            };
            pair.audit()?;
            outcomes[outcome.map_or_else(|stop| stop as usize + 1, |()| 0)] += 1;
            if outcome != Err(Stop::Preempted) {
                let borrows = matches!(op, Op::Map { granter, .. } if granter != step.domain);
                outcomes[3] += u64::from(borrows && outcome.is_ok());
                break;
            }
        }
    }
    pair.end()?;
    Ok(outcomes)
}

/// As [`play`], with a panic as one more way of failing.
fn outcome(steps: &[Step]) -> Result<[u64; 4], String> {
    catch_unwind(AssertUnwindSafe(|| play(steps))).unwrap_or_else(|_| Err("it panics".into()))
}

/// Leaves parts out for as long as what remains still fails.
fn shrink(mut steps: Vec<Step>) -> Vec<Step> {
    let mut part = steps.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + part).min(steps.len()));
            if outcome(&fewer).is_err() {
                steps = fewer;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    steps
}

/// A sequence by its seed.
pub fn try_seed(seed: u64, length: usize) -> Result<[u64; 4], String> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let steps: Vec<Step> = (0..length).map(|_| random.step()).collect();
    outcome(&steps).map_err(|_| {
        let steps = shrink(steps);
        let why = outcome(&steps).err().unwrap_or_default();
        format!("seed {seed}: {why}\n{steps:#?}")
    })
}
