//! Random operations on grants mostly miss: what they name is not lent, or no table. Aimed, they name the next one that
//! fits. The same state and operation give the same one, so that a sequence stays plain data.

use crate::state::{At, Entry, Op, Side, State, Use};
use pv_abi::page_table::Level;

/// `op` of `domain`'s, at something that is there.
pub fn aimed(state: &State, domain: u8, op: Op) -> Op {
    let own = |frame| next(state, frame, |frame| state.frames[usize::from(frame)].owner == Some(domain));
    let side = |side| match side {
        Side::Own(frame) => Side::Own(own(frame)),
        Side::Granted(_, reference) => Side::Granted(1 - domain, reference),
    };
    match op {
        Op::Lend(reference, Entry::Grant(mut grant)) => {
            (grant.to, grant.frame) = (1 - domain, own(grant.frame));
            Op::Lend(reference, Entry::Grant(grant))
        }
        Op::Map { reference, writable, at, .. } => {
            let is_l1 = |frame: u8| {
                state.frames[usize::from(frame)].owner == Some(domain)
                    && state.frames[usize::from(frame)].partial.is_none()
                    && state.kind(frame) == Some(Use::Table(Level::L1))
            };
            let at = match at {
                At::Entry(table, index) => At::Entry(next(state, table, is_l1), index),
                At::Linear(_) => at,
            };
            Op::Map { granter: 1 - domain, reference, writable, at }
        }
        Op::Unmap(handle, at) => Op::Unmap(mapped(state, domain, handle), at),
        Op::Replace(handle, at, new) => Op::Replace(mapped(state, domain, handle), at, new),
        Op::Copy { word, source, dest } => Op::Copy { word, source: side(source), dest: side(dest) },
        other => other,
    }
}

/// The first frame from there on that fits, or else that one.
fn next(state: &State, frame: u8, fits: impl Fn(u8) -> bool) -> u8 {
    let all = state.frames.len() as u8;
    (0..all).map(|step| (frame + step) % all).find(|&frame| fits(frame)).unwrap_or(frame)
}

/// A handle of the domain's.
fn mapped(state: &State, domain: u8, handle: u8) -> u8 {
    let own: Vec<_> = state.mappings.iter().filter(|mapping| mapping.grantee == domain).collect();
    own.get(usize::from(handle) % own.len().max(1)).map_or(handle, |mapping| mapping.handle)
}
