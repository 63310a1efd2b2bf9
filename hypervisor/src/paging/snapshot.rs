//! The state of an [`Mmu`] as a value, so that a test can go back to it and try something else. Going back takes the
//! `Mmu` by exclusive reference: one that runs guests is shared, and cannot.

use super::space::SpaceState;
use super::{Mmu, Roots};
use crate::frame::{FramesAtRest, Reference};
use pv_abi::page_table::Pte;
use pv_abi::{DomId, Mfn};

/// All that there is to know while nothing goes on: frames, the contents of their entries in use, domains, and the
/// tokens that are outside.
#[derive(Debug)]
pub struct Snapshot {
    frames: FramesAtRest,
    contents: Vec<Pte>,
    spaces: Vec<(DomId, SpaceState)>,
    roots: Vec<Roots>,
    held: Vec<Reference>,
}

impl Mmu {
    /// The state now. No work is left over, and `roots` and `held` are all tokens that there are.
    ///
    /// # Panics
    /// Where work is left over: drain first.
    pub fn snapshot(&self, roots: &[Roots], held: &[Reference]) -> Snapshot {
        let spaces = self.spaces.all();
        let spaces = spaces.iter().map(|space| {
            let space = space.lock();
            assert!(space.deferred.is_empty(), "{} has work left over", space.domain);
            (space.domain, space.state)
        });
        Snapshot {
            frames: self.frames.at_rest(),
            contents: self
                .places()
                .map(|(mfn, index)| self.memory.entry(mfn, index).unwrap_or_default())
                .collect(),
            spaces: spaces.collect(),
            roots: roots.iter().map(copy_of_roots).collect(),
            held: held.iter().map(copy_of_reference).collect(),
        }
    }

    /// Goes back to a state of this `Mmu`; the tokens of then are the valid ones.
    pub fn restore(&mut self, to: &Snapshot) -> (Vec<Roots>, Vec<Reference>) {
        self.frames.go_back(&to.frames);
        for ((mfn, index), &entry) in self.places().zip(&to.contents) {
            let restored = self.memory.exchange_entry(mfn, index, entry, 0);
            debug_assert!(restored.is_ok(), "{mfn} was there");
        }
        for space in self.spaces.all() {
            let mut space = space.lock();
            let then = to.spaces.iter().find(|(domain, _)| *domain == space.domain);
            space.state = then.map_or(SpaceState::Alive, |&(_, state)| state);
            space.deferred.clear();
        }
        (to.roots.iter().map(copy_of_roots).collect(), to.held.iter().map(copy_of_reference).collect())
    }

    /// Every entry in use of every frame that a domain can have.
    fn places(&self) -> impl Iterator<Item = (Mfn, usize)> + use<> {
        let (frames, entries) = (self.layout.first_free.0..self.layout.frames, self.layout.entries);
        frames.flat_map(move |frame| (0..entries).map(move |index| (Mfn(frame), index)))
    }
}

const fn copy_of_roots(roots: &Roots) -> Roots {
    Roots { kernel: roots.kernel, user: roots.user }
}

const fn copy_of_reference(reference: &Reference) -> Reference {
    Reference::recall(reference.mfn(), reference.kind())
}
