//! Random sequences on a larger machine, each call with a budget of its own, some given up in the middle. One that
//! fails is shrunk: what is printed fails, and no shorter part of it does.

use crate::pair::{FOR_EVER, Pair};
use crate::state::{ENTRIES, Entry, Op, Stop, Use};
use pv_abi::page_table::Level;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub const FRAMES: usize = 15;

/// One step of a sequence: plain data, so that a part of a sequence is a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    domain: u8,
    op: Op,
    budget: u32,
    /// Calls after which it is given up, interrupted or not.
    calls: u32,
}

/// Xorshift64*.
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

    /// What to write where.
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

    fn op(&mut self) -> Op {
        match self.below(400) {
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
            _ => Op::Die,
        }
    }

    pub fn step(&mut self) -> Step {
        let (domain, op) = (self.below(4).saturating_sub(2) as u8, self.op());
        let budget = if op == Op::Die { FOR_EVER } else { [FOR_EVER, 1, 2, 3][self.below(4) as usize] };
        Step { domain, op, budget, calls: if self.below(4) == 0 { 1 } else { 1000 } }
    }
}

/// Plays a sequence on a new machine and ends all domains. How many calls were accepted, refused, interrupted.
pub fn play(steps: &[Step]) -> Result<[u64; 3], String> {
    let mut outcomes = [0; 3];
    let mut pair = Pair::new(FRAMES);
    for step in steps {
        for _ in 0..step.calls {
            let outcome = pair.call(step.domain, step.op, step.budget)?;
            outcomes[outcome.map_or_else(|stop| stop as usize + 1, |()| 0)] += 1;
            if outcome != Err(Stop::Preempted) {
                break;
            }
        }
    }
    pair.end()?;
    Ok(outcomes)
}

/// As [`play`], with a panic as one more way of failing.
fn outcome(steps: &[Step]) -> Result<[u64; 3], String> {
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
pub fn try_seed(seed: u64, length: usize) -> Result<[u64; 3], String> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let steps: Vec<Step> = (0..length).map(|_| random.step()).collect();
    outcome(&steps).map_err(|_| {
        let steps = shrink(steps);
        let why = outcome(&steps).err().unwrap_or_default();
        format!("seed {seed}: {why}\n{steps:#?}")
    })
}
