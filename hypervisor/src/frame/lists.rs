//! Which frames each domain has, and which nobody has: lists that run through one array, so that a domain's frames are walked
//! at the cost of those alone.

use pv_abi::{DomId, Mfn};
use std::collections::BTreeMap;
use zerocopy::FromZeros;

/// A frame that was free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreeFrame {
    /// Never used: it is zero, and takes no host memory yet.
    Untouched(Mfn),
    /// Somebody had it: it must be scrubbed.
    Used(Mfn),
}

/// Whose list the frames are in that came back.
const NOBODY: DomId = DomId::INVALID;

/// The neighbours of a frame in its list: their numbers and 1; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, FromZeros)]
struct Links {
    next: u32,
    previous: u32,
}

/// A list for each domain that has frames, one of frames that came back, and the frames behind the last one ever used. The
/// frames that the hypervisor has from the start are in no list.
#[derive(Clone, Debug)]
pub(super) struct FrameLists {
    untouched: std::ops::Range<u64>,
    /// Frames that came back.
    used: u64,
    /// The first of each list, as [`Links`] name it.
    first: BTreeMap<DomId, u32>,
    links: Vec<Links>,
}

impl FrameLists {
    /// Those of a machine whose frames from `untouched.start` on are free, up to the last.
    ///
    /// # Panics
    /// Where the host has no address space for them.
    #[expect(clippy::expect_used, reason = "there is no guest yet")]
    pub(super) fn new(untouched: std::ops::Range<u64>) -> Self {
        // Zeros cost the host no memory until they are used.
        let links = Links::new_vec_zeroed(untouched.end as usize).expect("the links fit the address space");
        Self { untouched, used: 0, first: BTreeMap::new(), links }
    }

    /// How many frames are free.
    pub(super) fn free(&self) -> u64 {
        let untouched = self.untouched.end.saturating_sub(self.untouched.start);
        untouched.saturating_add(self.used)
    }

    /// Puts a free frame into its new owner's list: one that came back last where there is one, which has host memory already.
    pub(super) fn take(&mut self, owner: DomId) -> Option<FreeFrame> {
        let free = match self.take_first(NOBODY) {
            Some(mfn) => {
                self.used = self.used.saturating_sub(1);
                FreeFrame::Used(mfn)
            }
            None => FreeFrame::Untouched(Mfn(self.untouched.next()?)),
        };
        let (FreeFrame::Used(mfn) | FreeFrame::Untouched(mfn)) = free;
        self.put_first(owner, mfn);
        Some(free)
    }

    /// A frame that nobody refers to is free.
    pub(super) fn give_back(&mut self, owner: DomId, mfn: Mfn) {
        self.unlink(owner, mfn);
        self.put_first(NOBODY, mfn);
        self.used = self.used.saturating_add(1);
    }

    /// Takes the first frame out of a domain's list: it is in none then.
    pub(super) fn take_first(&mut self, owner: DomId) -> Option<Mfn> {
        let mfn = number(*self.first.get(&owner)?)?;
        self.unlink(owner, mfn);
        Some(mfn)
    }

    /// All frames that are in lists, with whose lists those are: nobody's are [`DomId::INVALID`]'s. For audits.
    pub(super) fn all(&self) -> BTreeMap<Mfn, DomId> {
        let mut found: BTreeMap<_, _> = self.untouched.clone().map(|frame| (Mfn(frame), NOBODY)).collect();
        for (&owner, &first) in &self.first {
            let mut next = number(first);
            while let Some(mfn) = next {
                let before = found.insert(mfn, owner);
                next = before.is_none().then(|| number(self.links(mfn)?.next)).flatten();
            }
        }
        found
    }

    fn links(&self, mfn: Mfn) -> Option<Links> {
        self.links.get(usize::try_from(mfn.0).ok()?).copied()
    }

    fn set(&mut self, mfn: Mfn, change: impl FnOnce(&mut Links)) {
        if let Some(links) = usize::try_from(mfn.0).ok().and_then(|index| self.links.get_mut(index)) {
            change(links);
        }
    }

    fn put_first(&mut self, owner: DomId, mfn: Mfn) {
        let Some(name) = name(mfn) else { return };
        let next = self.first.insert(owner, name).unwrap_or(0);
        self.set(mfn, |links| *links = Links { next, previous: 0 });
        number(next).into_iter().for_each(|next| self.set(next, |links| links.previous = name));
    }

    /// Takes a frame out of its owner's list, where it is in it.
    fn unlink(&mut self, owner: DomId, mfn: Mfn) {
        let Some(Links { next, previous }) = self.links(mfn) else { return };
        match number(previous) {
            Some(previous) => self.set(previous, |links| links.next = next),
            None if self.first.get(&owner).copied() != name(mfn) => return, // it is in none
            None if next == 0 => drop(self.first.remove(&owner)),
            None => drop(self.first.insert(owner, next)),
        }
        number(next).into_iter().for_each(|next| self.set(next, |links| links.previous = previous));
        self.set(mfn, |links| *links = Links::default());
    }
}

/// How [`Links`] name a frame; nothing where there is no such frame.
fn name(mfn: Mfn) -> Option<u32> {
    u32::try_from(mfn.0).ok()?.checked_add(1)
}

fn number(name: u32) -> Option<Mfn> {
    name.checked_sub(1).map(|frame| Mfn(frame.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{Choices, Random};

    const DOMAINS: [DomId; 3] = [DomId(1), DomId(2), DomId(3)];

    #[test]
    fn frames_that_came_back_last_are_taken_first_and_then_untouched_ones() {
        let mut lists = FrameLists::new(2..5);
        let mut take = || lists.take(DOMAINS[0]);
        assert_eq!([take(), take()], [2, 3].map(|frame| Some(FreeFrame::Untouched(Mfn(frame)))));
        lists.give_back(DOMAINS[0], Mfn(2));
        lists.give_back(DOMAINS[0], Mfn(3));
        assert_eq!(lists.free(), 3);
        let taken = [(); 4].map(|()| lists.take(DOMAINS[1]));
        let used = |frame| Some(FreeFrame::Used(Mfn(frame)));
        assert_eq!(taken, [used(3), used(2), Some(FreeFrame::Untouched(Mfn(4))), None]);
        assert_eq!(lists.free(), 0);
    }

    /// Whatever is taken, given back and walked, each frame is in the one list that it belongs to.
    #[test]
    fn each_frame_is_in_one_list() {
        const FRAMES: u64 = 20;
        let (mut lists, mut random) = (FrameLists::new(0..FRAMES), Random::new(3));
        // Whose each frame is, and whether it is in its owner's list.
        let mut frames = vec![(NOBODY, true); FRAMES as usize];
        for step in 0..20_000 {
            let owner = DOMAINS[random.below(3) as usize];
            let index = random.below(FRAMES) as usize;
            match random.below(5) {
                0 | 1 => {
                    if let Some(FreeFrame::Used(mfn) | FreeFrame::Untouched(mfn)) = lists.take(owner) {
                        assert_eq!(frames[mfn.0 as usize], (NOBODY, true), "step {step}");
                        frames[mfn.0 as usize] = (owner, true);
                    }
                }
                2 | 3 if frames[index].0 != NOBODY => {
                    lists.give_back(frames[index].0, Mfn(index as u64));
                    frames[index] = (NOBODY, true);
                }
                4 if step % 10 == 0 => {
                    let first = lists.take_first(owner);
                    assert_eq!(first.is_some(), frames.contains(&(owner, true)), "step {step}");
                    if let Some(mfn) = first {
                        assert_eq!(frames[mfn.0 as usize], (owner, true), "step {step}");
                        frames[mfn.0 as usize].1 = false;
                    }
                }
                _ => {}
            }
            let listed = (0..).zip(&frames).filter(|(_, (_, is_listed))| *is_listed);
            let expected: BTreeMap<_, _> = listed.map(|(frame, &(owner, _))| (Mfn(frame), owner)).collect();
            assert_eq!(lists.all(), expected, "step {step}");
            let free = frames.iter().filter(|(owner, _)| *owner == NOBODY).count();
            assert_eq!(lists.free(), free as u64, "step {step}");
        }
    }
}
