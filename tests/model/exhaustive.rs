//! Small scope, exhaustively: from each of some scenes of a few frames and two domains, every sequence of operations up
//! to a length. Each operation that is accepted is made once more with an interruption after every step, and each
//! that maps or unmaps what is lent, behind a teardown that it has to go on with.

use crate::pair::{FOR_EVER, Pair, Saved};
use crate::state::{Op, State};
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
    /// Hashes of the states.
    pub states: HashSet<u64>,
    pub calls: u64,
    pub accepted: u64,
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
        pair.restore(&state);
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
    if pair.model == *from.model() {
        return Ok(None); // and so is the implementation: it was compared
    }
    seen.accepted += u64::from(outcome.is_ok());
    let next = if seen.states.insert(hash(&pair.model)) { Some(pair.save()) } else { None };
    let reached = next.is_some().then(|| pair.model.clone());
    pair.restore(from);
    if let (Some(reached), Ok(())) = (reached, outcome)
        && is_long(op, from.model(), &reached)
    {
        pair.step_by_step(domain, op)?;
        if pair.model != reached {
            return Err(format!("{op:?} of {domain} ends elsewhere when it is interrupted"));
        }
        pair.restore(from);
    }
    let borrows = matches!(op, Op::Map { granter, .. } if granter != domain) || matches!(op, Op::Unmap(..));
    if next.is_some() && borrows {
        behind_a_teardown(pair, from, domain, op)?;
    }
    Ok(next)
}

/// The operation once more, behind each table of the domain's that it has just given up.
fn behind_a_teardown(pair: &mut Pair, from: &Saved, domain: u8, op: Op) -> Result<(), String> {
    for (number, frame) in (0..).zip(&from.model().frames) {
        if frame.owner == Some(domain) && frame.pinned.is_some() {
            let _agreed = pair.one_behind_the_other(domain, Op::Unpin(number), op)?;
            pair.restore(from);
        }
    }
    Ok(())
}

/// Whether tables were made or unmade.
fn is_long(op: Op, from: &State, to: &State) -> bool {
    let tables = |state: &State| state.references().iter().map(|found| found.tables).collect::<Vec<_>>();
    !matches!(op, Op::Allocate | Op::AllocateShared) && tables(from) != tables(to)
}
