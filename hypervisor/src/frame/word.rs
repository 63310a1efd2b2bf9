//! What the frame table knows of one frame, in one word.
//!
//! Invariants ([`Word::inconsistency`]; [`super::step`] keeps them, guarded by
//! `frame::tests::word::every_step_from_every_word_keeps_the_invariants`):
//! - a type reference comes with a general reference of its own, and so does being allocated:
//!   `general >= uses + allocated`; a free frame is all zero;
//! - the type is [`FrameType::None`] exactly while its count is zero: a type changes only through zero;
//! - a frame that is being validated or devalidated has exactly one type reference, the work's own;
//! - a pin holds one type reference of a valid table, a permanent mark one of a writable frame;
//! - counts never wrap: what would exceed [`Word::MAX`] is refused.

use super::FrameType::{Descriptors, Table, Writable};
use pv_abi::page_table::Level;

/// What a frame is used as. Two uses of different types exclude each other; reading needs no type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameType {
    /// Nothing that needs a type: it may be mapped read-only.
    None,
    /// A page table: every entry is checked, and nobody but the hypervisor writes it.
    Table(Level),
    /// Segment descriptors: every descriptor is checked, and nobody but the hypervisor writes it.
    Descriptors,
    /// Mapped writable somewhere.
    Writable,
}

impl FrameType {
    /// All of them, in the order of their numbers in the word.
    pub const ALL: [Self; 7] = [
        Self::None,
        Table(Level::L1),
        Table(Level::L2),
        Table(Level::L3),
        Table(Level::L4),
        Descriptors,
        Writable,
    ];

    const fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Table(level) => level as u64,
            Descriptors => 5,
            Writable => 6,
        }
    }

    /// The table's level, where it is a table.
    pub const fn level(self) -> Option<Level> {
        match self {
            Table(level) => Some(level),
            _ => None,
        }
    }
}

/// How far the check of a frame's contents is. [`Phase::Valid`] wherever there is nothing to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// All entries of the table are checked, and hold their references.
    Valid,
    /// Some of the contents are checked, perhaps by a call that was interrupted.
    Validating,
    /// The contents' references are being given back.
    Devalidating,
}

/// The state of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// References of any kind.
    pub general: u32,
    /// References that need the type.
    pub uses: u32,
    /// What the frame is used as.
    pub kind: FrameType,
    /// How far the check of a table has come.
    pub phase: Phase,
    /// A guest keeps it validated: one type reference.
    pub pinned: bool,
    /// Its owner has not given it back: one general reference.
    pub allocated: bool,
    /// It must stay writable for its owner's life: one type reference.
    pub permanent: bool,
}

const COUNT_BITS: u32 = 28;
const USES_SHIFT: u32 = COUNT_BITS;
const KIND_SHIFT: u32 = 2 * COUNT_BITS;
const PHASE_SHIFT: u32 = KIND_SHIFT + 3;
const PINNED: u64 = 1 << 61;
const ALLOCATED: u64 = 1 << 62;
const PERMANENT: u64 = 1 << 63;

impl Word {
    /// The highest count that a word can hold. An operation that would go beyond is refused.
    pub const MAX: u32 = (1 << COUNT_BITS) - 1;

    /// A frame that nobody has.
    pub const FREE: Self = Self {
        general: 0,
        uses: 0,
        kind: FrameType::None,
        phase: Phase::Valid,
        pinned: false,
        allocated: false,
        permanent: false,
    };

    /// As it stands in the frame table.
    #[inline]
    pub const fn pack(self) -> u64 {
        let phase = match self.phase {
            Phase::Valid => 0,
            Phase::Validating => 1,
            Phase::Devalidating => 2,
        };
        self.general as u64
            | (self.uses as u64) << USES_SHIFT
            | self.kind.number() << KIND_SHIFT
            | phase << PHASE_SHIFT
            | flag_bit(self.pinned, PINNED)
            | flag_bit(self.allocated, ALLOCATED)
            | flag_bit(self.permanent, PERMANENT)
    }

    /// Reads what [`Self::pack`] wrote.
    #[inline]
    pub const fn unpack(bits: u64) -> Self {
        let kind = match bits >> KIND_SHIFT & 7 {
            1 => Table(Level::L1),
            2 => Table(Level::L2),
            3 => Table(Level::L3),
            4 => Table(Level::L4),
            5 => Descriptors,
            6 => Writable,
            _ => FrameType::None,
        };
        let phase = match bits >> PHASE_SHIFT & 3 {
            1 => Phase::Validating,
            2 => Phase::Devalidating,
            _ => Phase::Valid,
        };
        Self {
            general: bits as u32 & Self::MAX,
            uses: (bits >> USES_SHIFT) as u32 & Self::MAX,
            kind,
            phase,
            pinned: bits & PINNED != 0,
            allocated: bits & ALLOCATED != 0,
            permanent: bits & PERMANENT != 0,
        }
    }

    /// Whether it is a table of this level that may be walked and updated.
    pub fn is_valid_table(self, level: Level) -> bool {
        self.kind == Table(level) && self.phase == Phase::Valid
    }

    /// General references that come with a type reference, or with being allocated. No sum of what fits in a word
    /// overflows.
    pub(super) fn accounted(self) -> u32 {
        self.uses.saturating_add(self.allocated.into())
    }

    /// Which invariant it breaks, if any.
    pub fn inconsistency(self) -> Option<&'static str> {
        let has_contents = matches!(self.kind, Table(_) | Descriptors);
        let rules = [
            (self.general < self.accounted(), "a type reference, or being allocated, lacks its general one"),
            ((self.kind == FrameType::None) != (self.uses == 0), "the type is none exactly while unused"),
            (self.phase != Phase::Valid && !has_contents, "only tables and descriptors are validated"),
            (self.phase != Phase::Valid && self.uses != 1, "work on the contents holds the only reference"),
            (self.pinned && (self.kind.level().is_none() || self.phase != Phase::Valid), "pinned, not valid"),
            (self.permanent && self.kind != Writable, "permanent, and not writable"),
        ];
        rules.into_iter().find_map(|(broken, rule)| broken.then_some(rule))
    }
}

const fn flag_bit(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}
