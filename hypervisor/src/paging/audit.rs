//! Recounts everything: what each table's entries, pins, marks and leftovers hold must be what the frame table says.

use super::EntryPlace;
use super::Mmu;
use super::entry::{admit, is_bookkeeping};
use super::space::{Deferred, SpaceState};
use super::teardown::recall;
use crate::frame::{FrameType, Phase, ReferenceKind, Word};
use pv_abi::page_table::{Level, is_hypervisor_slot};
use pv_abi::{DomId, Mfn};
use std::collections::{BTreeMap, BTreeSet};

/// References found, by frame.
#[derive(Default)]
struct Found {
    general: u32,
    uses: BTreeMap<FrameType, u32>,
}

/// Counts of references as they follow from all that refers to frames.
#[derive(Default)]
struct Recount<'a> {
    lent: &'a [(EntryPlace, Mfn)],
    found: BTreeMap<Mfn, Found>,
    /// In whose list each frame is.
    listed: BTreeMap<Mfn, DomId>,
    dying: BTreeSet<DomId>,
    discrepancies: Vec<String>,
}

impl Recount<'_> {
    fn hold(&mut self, mfn: Mfn, kind: ReferenceKind) {
        let found = self.found.entry(mfn).or_default();
        found.general = found.general.saturating_add(1);
        if let ReferenceKind::Typed(kind) = kind {
            let uses = found.uses.entry(kind).or_default();
            *uses = uses.saturating_add(1);
        }
    }

    fn report(&mut self, text: String) {
        self.discrepancies.push(text);
    }
}

impl Mmu {
    /// Recounts every reference and says in words where the frame table disagrees. `held` are those outside of it:
    /// of roots ([`super::Roots::held`]), of descriptor frames, of [`Mmu::hold`]. Slow; nothing else may go on, and
    /// no batch may be open.
    pub fn audit(&self, held: &[(Mfn, ReferenceKind)]) -> Vec<String> {
        self.audit_lending(held, &[])
    }

    /// The same where domains lend frames to each other: entries at these places may name these frames.
    pub fn audit_lending(&self, held: &[(Mfn, ReferenceKind)], lent: &[(EntryPlace, Mfn)]) -> Vec<String> {
        let mut recount = Recount { lent, listed: self.frames.listed(), ..Recount::default() };
        held.iter().for_each(|&(mfn, kind)| recount.hold(mfn, kind));
        for space in self.spaces.all() {
            let space = space.lock();
            if space.state != SpaceState::Alive {
                recount.dying.insert(space.domain);
            }
            for deferred in &space.deferred {
                if let Deferred::GiveBack(reference) = deferred {
                    recount.hold(reference.mfn(), reference.kind());
                }
            }
        }
        self.frames.all().for_each(|mfn| self.count_held_by(mfn, &mut recount));
        self.frames.all().for_each(|mfn| self.compare(mfn, &mut recount));
        let sum = self.frames.conservation();
        if sum.free.checked_add(sum.owned) != Some(sum.total) {
            recount.report(format!("frames are not conserved: {sum:?}"));
        }
        recount.discrepancies
    }

    /// What a frame holds of itself and of others.
    fn count_held_by(&self, mfn: Mfn, recount: &mut Recount<'_>) {
        let word = self.frames.word(mfn);
        if word.allocated {
            recount.hold(mfn, ReferenceKind::General);
        }
        if word.pinned || word.permanent || word.phase != Phase::Valid {
            recount.hold(mfn, ReferenceKind::Typed(word.kind));
        }
        if let Some(level) = word.kind.level() {
            let entries =
                if word.phase == Phase::Valid { self.layout.entries } else { self.frames.progress(mfn) };
            (0..entries).for_each(|index| self.count_entry(mfn, level, index, word, recount));
        }
    }

    fn count_entry(&self, table: Mfn, level: Level, index: usize, word: Word, recount: &mut Recount<'_>) {
        let Ok(entry) = self.memory.entry(table, index) else {
            return recount.report(format!("{table} is a table outside of memory"));
        };
        let Some(reference) = recall(level, index, entry) else {
            if level != Level::L4 || word.phase != Phase::Valid || !is_hypervisor_slot(index) {
                return;
            }
            let owner = self.frames.owner(table);
            let slot = owner.map(|owner| self.hypervisor_slot(owner, index)).unwrap_or_default();
            if slot != entry && !is_bookkeeping(slot, entry) {
                recount.report(format!("{table} slot {index} is {entry:?} and not the hypervisor's"));
            }
            return;
        };
        if admit(level, entry) != Ok(entry) {
            recount.report(format!("{table} entry {index} is {entry:?}, which no check lets pass"));
        }
        let is_own = self.frames.owner(reference.mfn()) == self.frames.owner(table);
        let is_lent = recount.lent.contains(&(EntryPlace { table, index }, reference.mfn()));
        if word.phase != Phase::Devalidating && !is_own && !is_lent {
            recount.report(format!("{table} entry {index} names {}, of another domain", reference.mfn()));
        }
        recount.hold(reference.mfn(), reference.kind());
        reference.into_entry();
    }

    fn compare(&self, mfn: Mfn, recount: &mut Recount<'_>) {
        let word = self.frames.word(mfn);
        let found = recount.found.remove(&mfn).unwrap_or_default();
        if let Some(rule) = word.inconsistency() {
            recount.report(format!("{mfn}: {rule}: {word:?}"));
        }
        if found.general != word.general {
            recount.report(format!("{mfn} counts {} references and has {}", word.general, found.general));
        }
        let expected =
            if word.uses == 0 { BTreeMap::new() } else { BTreeMap::from([(word.kind, word.uses)]) };
        if found.uses != expected {
            recount.report(format!("{mfn} counts uses {expected:?} and has {:?}", found.uses));
        }
        let (owner, listed) = (self.frames.owner(mfn), recount.listed.remove(&mfn));
        let is_right = match (owner, listed) {
            (None, listed) => listed == Some(DomId::INVALID),
            (Some(DomId::XEN), listed) => listed.is_none(),
            // The frames of the dying are taken out of their lists, and may be lent yet.
            (Some(owner), None) => recount.dying.contains(&owner),
            (Some(owner), Some(listed)) => owner == listed,
        };
        if !is_right {
            recount.report(format!("{mfn} is {owner:?}'s, and in the list of {listed:?}"));
        }
    }
}
