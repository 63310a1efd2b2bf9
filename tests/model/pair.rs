//! Model and implementation side by side: every operation is carried out by both, and both must say the same.

use crate::invariants;
use crate::real::Real;
use crate::state::{Op, State, Stop};
use hypervisor::paging::Snapshot;

/// Steps that no operation of these small machines needs.
pub const FOR_EVER: u32 = 10_000;

pub struct Pair {
    pub model: State,
    real: Real,
}

/// Both, to go back to.
pub struct Saved {
    model: State,
    real: Snapshot,
}

impl Saved {
    pub const fn model(&self) -> &State {
        &self.model
    }
}

impl Pair {
    pub fn new(frames: usize) -> Self {
        Self { model: State::new(frames), real: Real::new(frames) }
    }

    pub fn save(&self) -> Saved {
        Saved { model: self.model.clone(), real: self.real.snapshot() }
    }

    pub fn restore(&mut self, to: &Saved) {
        self.model.clone_from(&to.model);
        self.real.restore(&to.real);
    }

    /// One call. The implementation accepts it exactly when the model does, and both are in the same state then.
    pub fn call(&mut self, domain: u8, op: Op, budget: u32) -> Result<Result<(), Stop>, String> {
        let (outcome, given) = self.real.call(domain, op, budget)?;
        self.agree(domain, op, budget, outcome, given)?;
        Ok(outcome)
    }

    fn agree(
        &mut self,
        domain: u8,
        op: Op,
        budget: u32,
        outcome: Result<(), Stop>,
        given: Option<u8>,
    ) -> Result<(), String> {
        let before = (outcome == Err(Stop::Refused)).then(|| self.model.clone());
        let by_model = self.model.apply(domain, op, budget, given);
        if outcome != by_model {
            return Err(format!("{op:?} of {domain}: {outcome:?}, and by the model {by_model:?}"));
        }
        if given.is_some_and(|frame| !self.real.is_zero(frame)) {
            return Err(format!("{given:?} was not scrubbed"));
        }
        // All that a refusal may end is a validation that was interrupted before.
        if before
            .is_some_and(|before| before != self.model && before.frames.iter().all(|f| f.partial.is_none()))
        {
            return Err(format!("{op:?} of {domain} was refused, and changed something"));
        }
        self.real.drain(FOR_EVER)?;
        self.compare().map_err(|why| format!("after {op:?} of {domain}: {why}"))
    }

    pub fn compare(&self) -> Result<(), String> {
        let wrong = self.real.differs(&self.model).or_else(|| invariants::broken(&self.model));
        wrong.map_or(Ok(()), Err)
    }

    /// The operation, one step at a time; after every step every count is right. It ends where it would have
    /// ended without interruptions.
    pub fn step_by_step(&mut self, domain: u8, op: Op) -> Result<(), String> {
        for calls in 0.. {
            let (outcome, given) = self.real.call(domain, op, 1)?;
            self.real.audit()?;
            if op == Op::Die {
                if outcome.is_ok() {
                    break;
                }
            } else {
                let by_model = self.model.apply(domain, op, 1, given);
                if outcome == Err(Stop::Preempted) && by_model.is_ok() {
                    return Err(format!("{op:?} of {domain} was interrupted for nothing"));
                }
                self.real.drain(1)?;
                self.compare()?;
                if outcome != Err(Stop::Preempted) {
                    return Ok(());
                }
            }
            if calls > 1000 {
                return Err(format!("{op:?} of {domain} never ends"));
            }
        }
        self.model.apply(domain, op, 1, None).map_err(|stop| format!("{stop:?}"))?;
        self.compare()
    }

    /// All die, one step at a time, and nothing is left.
    pub fn end(&mut self) -> Result<(), String> {
        while !self.model.held.is_empty() {
            self.call(0, Op::Release(0), FOR_EVER)?.map_err(|stop| format!("{stop:?}"))?;
        }
        for domain in [0, 1] {
            self.step_by_step(domain, Op::Die)?;
            if self.real.frames_of(domain) != 0 {
                return Err(format!("{domain} left frames behind"));
            }
        }
        self.compare()
    }
}
