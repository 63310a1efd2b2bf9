//! Small scope, exhaustively: from each of some scenes of a few frames and two domains, every sequence of operations up
//! to a length. Each operation that makes or unmakes tables, and each that validates some and is then refused, is made
//! once more with an interruption after every step; and each that maps or unmaps what is lent, behind a teardown that it
//! has to go on with. Before each operation every pcpu has cached whatever it may; afterwards nothing is stale.

use crate::pair::{FOR_EVER, Pair, Saved};
use crate::state::{Op, State, Stop};
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};

/// Where an exploration starts, what is tried in it, and how long its sequences are.
pub struct Scene {
    pub name: &'static str,
    pub depth: u32,
    /// How much longer they are in the long tier.
    pub further: u32,
    pub frames: usize,
    pub start: &'static [(u8, Op)],
    pub alphabet: fn(&State) -> Vec<(u8, Op)>,
}

/// What an exploration saw.
#[derive(Default)]
pub struct Seen {
    /// Hashes of the states that were reached.
    pub states: HashSet<u64>,
    pub calls: u64,
    pub accepted: u64,
    /// Operations that were made once more, interrupted after every step; and those that were refused.
    pub stepped: u64,
    pub stepped_refused: u64,
}

fn hash(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Budgets of a call that is made once, and, where it is interrupted, not again.
fn budgets(op: Op) -> &'static [u32] {
    match op {
        Op::Pin(..) | Op::Base(0, _) => &[FOR_EVER, 1, 3],
        Op::Unmap(..) | Op::Replace(..) => &[FOR_EVER, 0],
        _ => &[FOR_EVER],
    }
}

/// All sequences of at most `depth` operations from the scene.
pub fn explore(scene: &Scene, depth: u32) -> Result<Seen, String> {
    let mut pair = Pair::new(scene.frames);
    for &(domain, op) in scene.start {
        pair.call(domain, op, FOR_EVER)?.map_err(|stop| format!("{op:?}: {stop:?}"))?;
    }
    let mut seen = Seen::default();
    seen.states.insert(hash(&pair.model));
    let mut open = VecDeque::from([(pair.save(), 0, Vec::new())]);
    while let Some((state, length, path)) = open.pop_front() {
        pair.restore(&state)?;
        for (domain, op) in (scene.alphabet)(&pair.model) {
            for &budget in budgets(op) {
                let next = attempt(&mut pair, &state, &mut seen, (domain, op, budget));
                let next =
                    next.map_err(|why| format!("{why}\nin the scene {:?} after {path:?}", scene.name))?;
                if let Some(next) = next.filter(|_| length + 1 < depth) {
                    let path = path.iter().copied().chain([(domain, op, budget)]).collect();
                    open.push_back((next, length + 1, path));
                }
            }
        }
    }
    Ok(seen)
}

/// One operation from a state, to which the pair goes back. The state that it leads to, where that is a new one.
fn attempt(
    pair: &mut Pair,
    from: &Saved,
    seen: &mut Seen,
    (domain, op, budget): (u8, Op, u32),
) -> Result<Option<Saved>, String> {
    seen.calls += 1;
    let outcome = pair.call(domain, op, budget)?;
    let has_changed = pair.model != *from.model(); // and if not, neither has the implementation: it was compared
    let is_new = has_changed && seen.states.insert(hash(&pair.model));
    let next = if is_new { Some(pair.save()) } else { None };
    if is_new {
        pair.audit()?;
    }
    let is_long = budget == FOR_EVER
        && (is_new && op == Op::Die || is_long(domain, op, outcome, (from.model(), &pair.model)));
    if is_long {
        in_steps(pair, from, domain, op)?;
        *(if outcome.is_ok() { &mut seen.stepped } else { &mut seen.stepped_refused }) += 1;
    }
    if has_changed || is_long {
        seen.accepted += u64::from(has_changed && outcome.is_ok());
        pair.restore(from)?;
    }
    let borrows = matches!(op, Op::Map { granter, .. } if granter != domain) || matches!(op, Op::Unmap(..));
    if is_new && borrows {
        behind_a_teardown(pair, from, domain, op)?;
    }
    Ok(next)
}

/// The operation that led to this state once more, interrupted after every step: it leads to the same one.
fn in_steps(pair: &mut Pair, from: &Saved, domain: u8, op: Op) -> Result<(), String> {
    let reached = pair.model.clone();
    pair.restore(from)?;
    pair.step_by_step(domain, op)?;
    if pair.model != reached {
        return Err(format!("{op:?} of {domain} ends elsewhere when it is interrupted"));
    }
    Ok(())
}

/// The operation once more, behind each table of the domain's that it has just given up.
fn behind_a_teardown(pair: &mut Pair, from: &Saved, domain: u8, op: Op) -> Result<(), String> {
    for (number, frame) in (0..).zip(&from.model().frames) {
        if frame.owner == Some(domain) && frame.pinned.is_some() {
            let _agreed = pair.one_behind_the_other(domain, Op::Unpin(number), op)?;
            pair.restore(from)?;
        }
    }
    Ok(())
}

/// Whether there is something to interrupt: tables were made or unmade, or validated up to what was refused.
fn is_long(domain: u8, op: Op, outcome: Result<(), Stop>, (from, to): (&State, &State)) -> bool {
    let parts = |state: &State| state.frames.iter().map(|frame| frame.partial).collect::<Vec<_>>();
    let tables = |state: &State| state.references().iter().map(|found| found.tables).collect::<Vec<_>>();
    match outcome {
        Ok(()) if matches!(op, Op::Allocate | Op::AllocateShared) => false,
        Ok(()) => tables(from) != tables(to) || parts(from) != parts(to),
        Err(_) if !matches!(op, Op::Write(..) | Op::WriteAt(..) | Op::Pin(..) | Op::Base(..)) => false,
        Err(_) => from.clone().apply(domain, op, 1, None) == Err(Stop::Preempted),
    }
}
