//! Model and implementation side by side: every operation is carried out by both, and both must say the same.

use crate::invariants;
use crate::real::{AtRest, Real};
use crate::state::{ENTRIES, Op, State, Stop};

/// Steps that no operation of these small machines needs.
pub const FOR_EVER: u32 = 10_000;

pub struct Pair {
    pub model: State,
    real: Real,
    saved: u64,
    /// The state of which pcpus have all that they may have, and what had been settled and retired by then.
    cached: Option<(u64, (u64, u64))>,
}

/// A state of both, which [`Pair::restore`] goes back to.
pub struct Saved {
    model: State,
    real: AtRest,
    number: u64,
}

impl Saved {
    pub const fn model(&self) -> &State {
        &self.model
    }
}

impl Pair {
    pub fn new(frames: usize) -> Self {
        Self { model: State::new(frames), real: Real::new(frames), saved: 0, cached: None }
    }

    pub fn save(&mut self) -> Saved {
        self.saved += 1;
        Saved { model: self.model.clone(), real: self.real.at_rest(), number: self.saved }
    }

    /// Goes back, to where each pcpu has touched all that it can.
    pub fn restore(&mut self, to: &Saved) -> Result<(), String> {
        self.model.clone_from(&to.model);
        self.real.go_back(&to.real);
        let cached = Some((to.number, self.real.translations.work()));
        if self.cached != cached {
            self.real.forget_and_touch()?;
            self.cached = cached;
        }
        Ok(())
    }

    /// Each pcpu touches all that it can.
    pub fn touch(&self) {
        self.real.touch();
    }

    /// The implementation's own recount, and a look into the pcpus' caches.
    pub fn audit(&self) -> Result<(), String> {
        self.real.audit()
    }

    /// One call. The implementation accepts it exactly when the model does, and both are in the same state then.
    pub fn call(&mut self, domain: u8, op: Op, budget: u32) -> Result<Result<(), Stop>, String> {
        if self.is_silent(domain, op) {
            return Ok(Err(Stop::Refused));
        }
        let (outcome, given) = self.real.call(domain, op, budget)?;
        self.agree(domain, op, budget, outcome, given)?;
        Ok(outcome)
    }

    /// The dead make no calls. Page tables see to that themselves.
    fn is_silent(&self, domain: u8, op: Op) -> bool {
        matches!(op, Op::Map { .. } | Op::Copy { .. }) && self.model.domains[usize::from(domain)].dead
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
        let is_frame = matches!(op, Op::Allocate | Op::AllocateShared | Op::SetUp);
        if is_frame && given.is_some_and(|frame| !self.real.is_zero(frame)) {
            return Err(format!("{given:?} was not scrubbed"));
        }
        // A refusal may end a validation that was interrupted before, and take back marks that a granter made itself.
        let is_plain =
            |state: &State| state.frames.iter().all(|frame| frame.partial.is_none()) && !has_forged(state);
        if before.is_some_and(|before| before != self.model && is_plain(&before)) {
            return Err(format!("{op:?} of {domain} was refused, and changed something"));
        }
        // Whoever is told that its page is free must not depend on what the other leaves over.
        if let (Op::Unmap(..) | Op::Replace(..), Ok(())) = (op, outcome)
            && let Some(why) = self.real.differs_in_frames(&self.model, |owner| owner != Some(domain))
        {
            return Err(format!("directly after {op:?} of {domain}: {why}"));
        }
        // Caches are looked into before what is left over is taken apart, and afterwards; a refusal changed nothing.
        let caches = |real: &Real| if outcome == Err(Stop::Refused) { Ok(()) } else { real.check_caches() };
        caches(&self.real)?;
        self.real.drain(budget.max(1))?;
        caches(&self.real)?;
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
                // Whose tables are not gone yet may reach what it has mapped, and its granter is told so.
                if let Some(why) = self.real.differs_in_pins(1 - domain, &self.model) {
                    return Err(format!("while {domain} dies: {why}"));
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

    /// Two calls, the second of which goes on with what the first left over, one step at a time. What is interrupted
    /// there leaves no trace.
    pub fn one_behind_the_other(
        &mut self,
        domain: u8,
        before: Op,
        op: Op,
    ) -> Result<Result<(), Stop>, String> {
        // A frame that was given back goes with its last reference, which the first call only leaves over; and what is
        // interrupted takes back marks that the granter made itself.
        let is_going = self.model.frames.iter().any(|frame| frame.owner.is_some() && !frame.allocated);
        if self.is_silent(domain, op) || is_going || has_forged(&self.model) {
            return self.call(domain, op, FOR_EVER);
        }
        let (outcome, _) = self.real.call(domain, before, 1)?;
        if outcome != self.model.apply(domain, before, 1, None) {
            return Err(format!("{before:?} of {domain}: {outcome:?}"));
        }
        for _ in 0..1000 {
            let (outcome, given) = self.real.call(domain, op, 1)?;
            self.real.audit()?;
            if outcome != Err(Stop::Preempted) {
                self.agree(domain, op, FOR_EVER, outcome, given)?;
                return Ok(outcome);
            }
            if let Some(why) = self.real.differs_in_grants(&self.model) {
                return Err(format!("{op:?} of {domain} was interrupted: {why}"));
            }
        }
        Err(format!("{op:?} of {domain} never ends"))
    }

    /// All die, one step at a time, and nothing is left.
    pub fn end(&mut self) -> Result<(), String> {
        while !self.model.held.is_empty() {
            self.call(0, Op::Release(0), FOR_EVER)?.map_err(|stop| format!("{stop:?}"))?;
        }
        for domain in [0, 1] {
            self.step_by_step(domain, Op::Die)?; // what the other has mapped of it stays until that dies, too
        }
        if let Some(domain) = [0, 1].into_iter().find(|&domain| self.real.frames_of(domain) != 0) {
            return Err(format!("{domain} left frames behind"));
        }
        self.compare()
    }
}

/// Whether a granter wrote marks of its own, which any use of the entry takes back.
fn has_forged(state: &State) -> bool {
    state.domains.iter().any(|domain| domain.forged != [false; ENTRIES])
}
