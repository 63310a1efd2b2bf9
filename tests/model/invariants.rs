//! What must hold of every state, checked by walking all of it.

use crate::grants::Mapping;
use crate::state::{DOMAINS, ENTRIES, State, Use};
use pv_abi::page_table::Level;

/// Which rule is broken, if any.
pub fn broken(state: &State) -> Option<String> {
    let references = state.references();
    for (number, (frame, found)) in state.frames.iter().zip(&references).enumerate() {
        let mut types = found.typed();
        let (first, second) = (types.next(), types.next());
        if let (Some(first), Some(second)) = (first, second) {
            return Some(format!("frame {number} is {first:?} and {second:?} at once"));
        }
        if frame.owner.is_none() && (found.total() > 0 || frame.allocated) {
            return Some(format!("frame {number} is nobody's and has references: {found:?}"));
        }
        if frame.owner.is_some() && found.total() == 0 && !frame.allocated {
            return Some(format!("frame {number} has an owner and no reference"));
        }
        if let Some((Use::Table(level), _)) = first
            && frame.partial.is_none()
            && let Some(why) = revalidate(state, number, level)
        {
            return Some(format!("frame {number} is a valid {level:?} table: {why}"));
        }
    }
    grants(state)
}

/// What grants must be, whoever wrote into their tables.
fn grants(state: &State) -> Option<String> {
    for domain in 0..DOMAINS as u8 {
        for reference in 0..ENTRIES as u8 {
            let of = state.mappings.iter().filter(|m| (m.granter, m.reference) == (Some(domain), reference));
            let Some(pins) = state.pins(domain, reference) else { continue };
            if of.into_iter().any(|mapping| (mapping.grantee, mapping.frame) != (pins.by, pins.frame)) {
                return Some(format!("entry {reference} of {domain} lends two frames, or to two"));
            }
        }
        for reference in 0..ENTRIES as u8 {
            let marks = (state.written_marks(domain, reference), state.counted_marks(domain, reference));
            if marks.0 != marks.1 && !state.domains[usize::from(domain)].forged[usize::from(reference)] {
                return Some(format!("entry {reference} of {domain} is marked {marks:?}"));
            }
        }
    }
    None
}

/// Whether a valid table would be validated again, and found good, as it stands.
fn revalidate(state: &State, table: usize, level: Level) -> Option<String> {
    let owner = state.frames[table].owner;
    for (index, entry) in state.frames[table].contents.into_iter().enumerate() {
        if entry.is_bad() {
            return Some(format!("{entry:?} in it"));
        }
        let Some((frame, what)) = entry.use_in(level) else { continue };
        let place = (table as u8, index as u8);
        let is_lent = |mapping: &Mapping| {
            let entry = (mapping.place, mapping.frame, mapping.grantee);
            let who = state.frames[usize::from(frame)].owner;
            entry == (place, frame, owner.unwrap_or(u8::MAX))
                && (mapping.writable, level) == (what == Use::Write, Level::L1)
                && mapping.granter.is_none_or(|granter| Some(granter) == who)
        };
        let is_own = state.frames[usize::from(frame)].owner == owner;
        if !is_own && !state.mappings.iter().any(is_lent) {
            return Some(format!("{entry:?} is another domain's"));
        }
        let kind = state.kind(frame);
        let partial = state.frames[usize::from(frame)].partial.is_some();
        if what != Use::Read && (kind != Some(what) || partial) {
            return Some(format!("{entry:?} needs {what:?} and is {kind:?}, partial: {partial}"));
        }
    }
    None
}
