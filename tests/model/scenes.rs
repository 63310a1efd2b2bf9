//! Scenes of page tables: five frames, two domains, and each of them tries everything with its own.

use crate::exhaustive::Scene;
use crate::state::{ENTRIES, Entry, Op, State, Use};
use pv_abi::page_table::Level;

const FRAMES: usize = 5;

pub const fn rw(frame: u8) -> Entry {
    Entry::Maps { frame, writable: true }
}

pub const fn ro(frame: u8) -> Entry {
    Entry::Maps { frame, writable: false }
}

pub const GET: Op = Op::Allocate;

const fn scene(name: &'static str, depth: u32, start: &'static [(u8, Op)]) -> Scene {
    Scene { name, depth, further: 1, frames: FRAMES, alphabet, start }
}

/// The machine gives frames in order: 0 first.
pub const SCENES: [Scene; 7] = [
    scene("both domains have pages", 3, &[(0, GET), (0, GET), (0, GET), (1, GET)]),
    scene("each domain has two pages", 3, &[(0, GET), (0, GET), (1, GET), (1, GET)]),
    scene(
        "a tree that is not used yet",
        3,
        &[(0, GET), (0, GET), (0, GET), (1, GET), (0, Op::Write(0, 0, rw(1))), (0, Op::Write(1, 0, rw(2)))],
    ),
    scene(
        "a tree in use",
        3,
        &[
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
    ),
    scene(
        "tables that share what is below",
        3,
        &[
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
    ),
    scene(
        "each domain has a table",
        3,
        &[
            (0, GET),
            (0, GET),
            (1, GET),
            (1, GET),
            (0, Op::Write(0, 0, rw(1))),
            (1, Op::Write(2, 1, rw(3))),
            (0, Op::Pin(0, Level::L1)),
            (1, Op::Pin(2, Level::L1)),
        ],
    ),
    scene(
        "a dead domain whose frames others hold",
        4,
        &[
            (0, GET),
            (0, GET),
            (1, GET),
            (0, Op::Hold(0, Use::Write)),
            (0, Op::Hold(1, Use::Read)),
            (0, Op::Die),
        ],
    ),
];

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
