//! What the pcpus of a fake machine have cached, against what the tables say.

use super::Mmu;
use crate::frame::{FrameType, Phase};
use crate::machine::fake::Derived;
use pv_abi::Mfn;
use pv_abi::page_table::{Level, Pte, PteFlags};

/// What the CPU sets in an entry, and what it ignores.
const NO_MATTER: PteFlags = PteFlags::ACCESSED
    .union(PteFlags::DIRTY)
    .union(PteFlags::AVAIL_HIGH)
    .union(PteFlags::AVAIL0)
    .union(PteFlags::AVAIL1)
    .union(PteFlags::AVAIL2);

impl Mmu {
    /// Of what pcpus still have, all that the tables do not say any more, in words. Nothing else may go on, and no
    /// batch may be open.
    pub fn stale(&self, derived: impl IntoIterator<Item = Derived>) -> Vec<String> {
        let is_stale = |derived: &Derived| {
            let now = self.memory.entry(derived.table, derived.index).unwrap_or(Pte(0));
            !self.holds_all(derived.table, derived.level)
                || (now.0 ^ derived.entry.0) & !NO_MATTER.bits() != 0
        };
        let say = |derived: Derived| {
            let entry = self.memory.entry(derived.table, derived.index);
            format!("{derived:?} is now {entry:?} in {:?}", self.frames.word(derived.table))
        };
        derived.into_iter().filter(is_stale).map(say).collect()
    }

    /// Whether a table's entries hold all their references: it is valid, or its teardown has not begun.
    fn holds_all(&self, table: Mfn, level: Level) -> bool {
        let word = self.frames.word(table);
        let untouched =
            word.phase == Phase::Devalidating && self.frames.progress(table) == self.layout.entries;
        word.kind == FrameType::Table(level) && (word.phase == Phase::Valid || untouched)
    }
}
