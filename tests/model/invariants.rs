//! What must hold of every state, checked by walking all of it.

use crate::state::{Entry, State, Use};
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
    None
}

/// Whether a valid table would be validated again, and found good, as it stands.
fn revalidate(state: &State, table: usize, level: Level) -> Option<String> {
    let owner = state.frames[table].owner;
    for entry in state.frames[table].contents {
        if let Entry::Bad(_) = entry {
            return Some(format!("{entry:?} in it"));
        }
        let Some((frame, what)) = entry.use_in(level) else { continue };
        if state.frames[usize::from(frame)].owner != owner {
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
