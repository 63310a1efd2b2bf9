//! Scenes of grants: fewer tables, and what the two sides of a grant may do, also to each other.

use crate::exhaustive::Scene;
use crate::grants::{Grant, READING, WRITING};
use crate::scenes::{GET, ro, rw};
use crate::state::{At, ENTRIES, Entry, Op, Side, State, Use};
use pv_abi::page_table::Level;

/// Who lends in these scenes, and who borrows.
const LENDER: u8 = 0;
const BORROWER: u8 = 1;

const fn grant(to: u8, frame: u8, read_only: bool) -> Entry {
    Entry::Grant(Grant { to, frame, read_only, marks: 0 })
}

const fn map(reference: u8, writable: bool, at: At) -> Op {
    Op::Map { granter: LENDER, reference, writable, at }
}

/// The lender's frames 0 (its grant table) and 1; the borrower's 2 (an L1 table) and 3.
const LENT: &[(u8, Op)] = &[
    (LENDER, Op::SetUp),
    (LENDER, GET),
    (BORROWER, GET),
    (BORROWER, GET),
    (BORROWER, Op::Pin(2, Level::L1)),
    (LENDER, Op::Lend(0, grant(BORROWER, 1, false))),
];

/// The same, and the page is mapped.
const MAPPED: &[(u8, Op)] = &[
    (LENDER, Op::SetUp),
    (LENDER, GET),
    (BORROWER, GET),
    (BORROWER, GET),
    (BORROWER, Op::Pin(2, Level::L1)),
    (LENDER, Op::Lend(0, grant(BORROWER, 1, false))),
    (BORROWER, map(0, true, At::Entry(2, 0))),
];

/// Frame 1 is mapped twice, and its lender dead.
const WIDOWED: &[(u8, Op)] = &[
    (LENDER, Op::SetUp),
    (LENDER, GET),
    (BORROWER, GET),
    (BORROWER, Op::Pin(2, Level::L1)),
    (LENDER, Op::Lend(0, grant(BORROWER, 1, false))),
    (BORROWER, map(0, true, At::Entry(2, 0))),
    (BORROWER, map(0, false, At::Entry(2, 1))),
    (LENDER, Op::Die),
];

/// The borrower has a tree (2 to 5, from the root down) that maps a page (6), and the lender's frame 1.
const TREE: &[(u8, Op)] = &[
    (LENDER, Op::SetUp),
    (LENDER, GET),
    (BORROWER, GET),
    (BORROWER, GET),
    (BORROWER, GET),
    (BORROWER, GET),
    (BORROWER, GET),
    (BORROWER, Op::Write(2, 0, rw(3))),
    (BORROWER, Op::Write(3, 0, rw(4))),
    (BORROWER, Op::Write(4, 0, rw(5))),
    (BORROWER, Op::Write(5, 0, rw(6))),
    (BORROWER, Op::Base(0, Some(2))),
    (LENDER, Op::Lend(0, grant(BORROWER, 1, false))),
    (BORROWER, map(0, true, At::Linear([0, 0, 0, 1]))),
];

pub const SCENES: [Scene; 4] = [
    Scene { name: "a page is lent", depth: 3, further: 1, frames: 5, alphabet, start: LENT },
    Scene { name: "a page is lent and mapped", depth: 3, further: 1, frames: 5, alphabet, start: MAPPED },
    Scene {
        name: "a dead lender whose page is mapped",
        depth: 4,
        further: 1,
        frames: 4,
        alphabet,
        start: WIDOWED,
    },
    Scene { name: "a page is lent into a tree", depth: 3, further: 0, frames: 7, alphabet, start: TREE },
];

/// What both domains may try.
fn alphabet(state: &State) -> Vec<(u8, Op)> {
    let mut ops = Vec::new();
    for domain in [LENDER, BORROWER] {
        let mut add = |op| ops.push((domain, op));
        [GET, Op::SetUp, Op::Die].into_iter().for_each(&mut add);
        for frame in 0..state.frames.len() as u8 {
            pages(state, domain, frame, &mut add);
        }
        lends(state, domain, &mut add);
        borrows(state, domain, &mut add);
    }
    if !state.held.is_empty() {
        ops.push((LENDER, Op::Release(0)));
    }
    ops
}

/// What a domain may do to a frame, whoever has it.
fn pages(state: &State, domain: u8, frame: u8, add: &mut impl FnMut(Op)) {
    add(Op::Pin(frame, Level::L1));
    if state.frames[usize::from(frame)].owner != Some(domain) {
        return;
    }
    [Op::Unpin(frame), Op::Deallocate(frame), Op::Base(0, Some(frame))].into_iter().for_each(&mut *add);
    [Use::Write, Use::Read, Use::Descriptors].into_iter().for_each(|what| add(Op::Hold(frame, what)));
    for index in 0..ENTRIES as u8 {
        add(Op::Write(frame, index, Entry::Absent));
        for to in 0..state.frames.len() as u8 {
            let is_own = state.frames[usize::from(to)].owner == Some(domain);
            let lent = |writable| Entry::Lent { frame: to, writable };
            let entries = if is_own { [rw(to), ro(to)] } else { [lent(true), lent(false)] };
            entries.into_iter().for_each(|entry| add(Op::Write(frame, index, entry)));
        }
    }
}

/// What a domain may write into its grant table: each frame, for the other or for itself, and the marks, too.
fn lends(state: &State, domain: u8, add: &mut impl FnMut(Op)) {
    if state.domains[usize::from(domain)].table.is_none() {
        return;
    }
    for reference in 0..ENTRIES as u8 {
        add(Op::Lend(reference, Entry::Absent));
        add(Op::Lend(reference, grant(domain, 1, false)));
        let marked = Grant { to: 1 - domain, frame: 1, read_only: false, marks: READING | WRITING };
        add(Op::Lend(reference, Entry::Grant(marked)));
        for frame in 0..state.frames.len() as u8 {
            [false, true].into_iter().for_each(|ro| add(Op::Lend(reference, grant(1 - domain, frame, ro))));
        }
    }
}

/// What a domain may do with what is lent to it, by the other or by itself.
fn borrows(state: &State, domain: u8, add: &mut impl FnMut(Op)) {
    let tables =
        (0..state.frames.len() as u8).filter(|&frame| state.kind(frame) == Some(Use::Table(Level::L1)));
    let mut places: Vec<_> = tables.flat_map(|table| [At::Entry(table, 0), At::Entry(table, 1)]).collect();
    if state.domains[usize::from(domain)].roots[0].is_some() {
        places.extend([[0; 4], [0, 0, 0, 1]].map(At::Linear));
    }
    for granter in [LENDER, BORROWER] {
        if state.domains[usize::from(granter)].table.is_none() {
            continue;
        }
        for reference in 0..ENTRIES as u8 {
            for (&at, writable) in places.iter().flat_map(|at| [(at, false), (at, true)]) {
                add(Op::Map { granter, reference, writable, at });
            }
            let (lent, own) = (Side::Granted(granter, reference), Side::Own(3));
            add(Op::Copy { word: reference, source: lent, dest: own });
            add(Op::Copy { word: reference, source: own, dest: lent });
        }
        let (source, dest) = (Side::Granted(granter, 0), Side::Granted(granter, 1));
        add(Op::Copy { word: 0, source, dest });
    }
    for mapping in state.mappings.iter().filter(|mapping| mapping.grantee == domain) {
        add(Op::Unmap(mapping.handle, None));
        places.iter().for_each(|&at| add(Op::Unmap(mapping.handle, Some(at))));
        [[0; 4], [0, 0, 0, 1]].into_iter().for_each(|new| add(Op::Replace(mapping.handle, None, new)));
    }
    add(Op::Unmap(7, None));
}
