//! References as tokens: whoever has one must put it somewhere.

use super::FrameType;
use pv_abi::Mfn;
use pv_abi::page_table::{Level, Pte, PteFlags};

/// What a reference keeps from changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReferenceKind {
    /// The frame stays its owner's: enough to read it.
    General,
    /// The frame stays of this type, too.
    Typed(FrameType),
}

/// A counted reference to a frame. It is neither copied nor forgotten: an entry consumes it
/// ([`Self::into_entry`]), or [`super::FrameTable`] takes it back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reference that is neither stored nor given back is leaked, and its frame with it"]
pub struct Reference {
    mfn: Mfn,
    kind: ReferenceKind,
}

impl Reference {
    /// The frame that the reference keeps.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// What the reference keeps of the frame: that it is owned, or that it has a type, too.
    pub const fn kind(&self) -> ReferenceKind {
        self.kind
    }

    /// What the entry `entry` of a validated table of `level` holds; nothing unless it is present.
    pub const fn kind_of_entry(level: Level, entry: Pte) -> Option<ReferenceKind> {
        if !entry.is_present() {
            return None;
        }
        Some(match level.below() {
            Some(below) => ReferenceKind::Typed(FrameType::Table(below)),
            None if entry.flags().contains(PteFlags::WRITABLE) => ReferenceKind::Typed(FrameType::Writable),
            None => ReferenceKind::General,
        })
    }

    /// The reference moves into a table's entry, a root, or another record, from where it is
    /// recalled one day.
    pub fn into_entry(self) {}

    /// Makes the token of a reference that is counted: just now, or before it was moved into a record.
    pub(crate) const fn recall(mfn: Mfn, kind: ReferenceKind) -> Self {
        Self { mfn, kind }
    }
}
