//! Small scope, exhaustively: from each of some scenes of five frames and two domains, every sequence of operations
//! up to a length. Each operation that is accepted is made once more with an interruption after every step.

use crate::pair::{FOR_EVER, Pair, Saved};
use crate::state::{ENTRIES, Entry, Op, State, Use};
use pv_abi::page_table::Level;
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};

pub const FRAMES: usize = 5;

/// Where an exploration starts, and how long its sequences are.
pub struct Scene {
    pub name: &'static str,
    pub depth: u32,
    start: &'static [(u8, Op)],
}

/// What an exploration saw.
#[derive(Default)]
pub struct Seen {
    /// Hashes of the states.
    pub states: HashSet<u64>,
    pub calls: u64,
    pub accepted: u64,
}

const fn rw(frame: u8) -> Entry {
    Entry::Maps { frame, writable: true }
}

const fn ro(frame: u8) -> Entry {
    Entry::Maps { frame, writable: false }
}

const GET: Op = Op::Allocate;

/// The machine gives frames in order: 0 first.
pub const SCENES: [Scene; 7] = [
    Scene { name: "both domains have pages", depth: 3, start: &[(0, GET), (0, GET), (0, GET), (1, GET)] },
    Scene { name: "each domain has two pages", depth: 3, start: &[(0, GET), (0, GET), (1, GET), (1, GET)] },
    Scene {
        name: "a tree that is not used yet",
        depth: 3,
        start: &[
            (0, GET),
            (0, GET),
            (0, GET),
            (1, GET),
            (0, Op::Write(0, 0, rw(1))),
            (0, Op::Write(1, 0, rw(2))),
        ],
    },
    Scene {
        name: "a tree in use",
        depth: 3,
        start: &[
            (0, GET),
            (0, GET),
            (0, GET),
            (0, GET),
            (0, GET),
            (0, Op::Write(0, 0, rw(1))),
            (0, Op::Write(1, 0, rw(2))),
            (0, Op::Write(2, 0, rw(3))),
            (0, Op::Write(3, 0, rw(4))),
            (0, Op::Base(0, Some(0))),
        ],
    },
    Scene {
        name: "tables that share what is below",
        depth: 3,
        start: &[
            (0, GET),
            (0, GET),
            (0, GET),
            (0, GET),
            (1, GET),
            (0, Op::Write(0, 0, rw(2))),
            (0, Op::Write(1, 1, rw(2))),
            (0, Op::Write(2, 0, rw(3))),
            (0, Op::Write(2, 1, ro(3))),
            (0, Op::Pin(0, Level::L2)),
            (0, Op::Pin(1, Level::L2)),
        ],
    },
    Scene {
        name: "each domain has a table",
        depth: 3,
        start: &[
            (0, GET),
            (0, GET),
            (1, GET),
            (1, GET),
            (0, Op::Write(0, 0, rw(1))),
            (1, Op::Write(2, 1, rw(3))),
            (0, Op::Pin(0, Level::L1)),
            (1, Op::Pin(2, Level::L1)),
        ],
    },
    Scene {
        name: "a dead domain whose frames others hold",
        depth: 4,
        start: &[
            (0, GET),
            (0, GET),
            (1, GET),
            (0, Op::Hold(0, Use::Write)),
            (0, Op::Hold(1, Use::Read)),
            (0, Op::Die),
        ],
    },
];

fn hash(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// What both domains may try in a state: with their own frames everything, with others one thing of each kind.
fn alphabet(state: &State) -> Vec<(u8, Op)> {
    let mut ops = Vec::new();
    for domain in 0..2 {
        let mut add = |op| ops.push((domain, op));
        [GET, Op::AllocateShared, Op::Die, Op::Base(1, None)].into_iter().for_each(&mut add);
        for frame in 0..FRAMES as u8 {
            let is_own = state.frames[usize::from(frame)].owner == Some(domain);
            let levels = if is_own { &Level::ALL[..] } else { &Level::ALL[..1] };
            levels.iter().for_each(|&level| add(Op::Pin(frame, level)));
            [Op::Deallocate(frame), Op::Unpin(frame), Op::Base(0, Some(frame))]
                .into_iter()
                .for_each(&mut add);
            add(Op::Hold(frame, Use::Write));
            if !is_own {
                add(Op::Write(frame, 0, Entry::Absent));
                continue;
            }
            [Op::Base(1, Some(frame)), Op::Hold(frame, Use::Read)].into_iter().for_each(&mut add);
            for index in 0..ENTRIES as u8 {
                let write = |entry| Op::Write(frame, index, entry);
                [Entry::Absent, Entry::Bad(frame)].map(write).into_iter().for_each(&mut add);
                (0..FRAMES as u8).flat_map(|to| [rw(to), ro(to)]).map(write).for_each(&mut add);
            }
        }
    }
    if !state.held.is_empty() {
        ops.push((0, Op::Release(0)));
    }
    ops
}

/// Budgets of a call that is made once, and, where it is interrupted, not again.
fn budgets(op: Op) -> &'static [u32] {
    match op {
        Op::Pin(..) | Op::Base(0, _) => &[FOR_EVER, 1, 3],
        _ => &[FOR_EVER],
    }
}

/// All sequences of at most `depth` operations from the scene.
pub fn explore(scene: &Scene, depth: u32) -> Result<Seen, String> {
    let mut pair = Pair::new(FRAMES);
    for &(domain, op) in scene.start {
        pair.call(domain, op, FOR_EVER)?.map_err(|stop| format!("{op:?}: {stop:?}"))?;
    }
    let mut seen = Seen::default();
    seen.states.insert(hash(&pair.model));
    let mut open = VecDeque::from([(pair.save(), 0, Vec::new())]);
    while let Some((state, length, path)) = open.pop_front() {
        pair.restore(&state);
        for (domain, op) in alphabet(&pair.model) {
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
    Ok(next)
}

/// Whether tables were made or unmade.
fn is_long(op: Op, from: &State, to: &State) -> bool {
    let tables = |state: &State| state.references().iter().map(|found| found.tables).collect::<Vec<_>>();
    !matches!(op, Op::Allocate | Op::AllocateShared) && tables(from) != tables(to)
}
