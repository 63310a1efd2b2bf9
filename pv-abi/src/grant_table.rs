//! `grant_table_op` (`grant_table.h`): the table by which a domain lends its pages. Version 1 of its format.

use crate::address::Mfn;
use crate::ids::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// An operation (`GNTTABOP_*`). Arguments: address of an array of its structure, and how many there are.
    pub struct GrantTableOp(u64) {
        /// Maps granted pages.
        MAP_GRANT_REF = 0,
        /// Unmaps them.
        UNMAP_GRANT_REF = 1,
        /// [`SetupTable`].
        SETUP_TABLE = 2,
        /// Prints a table; host domain only.
        DUMP_TABLE = 3,
        /// [`QuerySize`].
        QUERY_SIZE = 6,
        /// Unmaps, and maps something else in the same step.
        UNMAP_AND_REPLACE = 7,
        /// [`SetVersion`].
        SET_VERSION = 8,
        /// [`GetVersion`].
        GET_VERSION = 10,
    }
}

wire_enum! {
    /// How an operation on one element ended (`GNTST_*`).
    pub struct GrantStatus(i16) {
        /// It is done.
        OKAY = 0,
        /// It is not, for a reason without a number.
        GENERAL_ERROR = -1,
        /// No such domain.
        BAD_DOMAIN = -2,
        /// The result cannot be stored.
        BAD_VIRT_ADDR = -5,
        /// It is not the caller's to do.
        PERMISSION_DENIED = -8,
    }
}

/// `struct gnttab_setup_table`: makes the table as large as asked for, and says where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupTable {
    /// In: the domain.
    pub dom: DomId,
    /// Padding.
    pub padding0: u16,
    /// In: frames that the table shall have at least.
    pub nr_frames: u32,
    /// Out: how it ended.
    pub status: GrantStatus,
    /// Padding.
    pub padding1: [u16; 3],
    /// In: address of an array of as many frame numbers.
    pub frame_list: u64,
}
layout!(SetupTable: 24, nr_frames @ 4, status @ 8, frame_list @ 16);

/// `struct gnttab_query_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuerySize {
    /// In: the domain.
    pub dom: DomId,
    /// Padding.
    pub padding0: u16,
    /// Out: frames that its table has.
    pub nr_frames: u32,
    /// Out: frames that it can have.
    pub max_nr_frames: u32,
    /// Out: how it ended.
    pub status: GrantStatus,
    /// Padding.
    pub padding1: u16,
}
layout!(QuerySize: 16, nr_frames @ 4, max_nr_frames @ 8, status @ 12);

/// `struct gnttab_set_version`: the format of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetVersion {
    /// In: wanted. Out: in force.
    pub version: u32,
}
layout!(SetVersion: 4);

/// `struct gnttab_get_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetVersion {
    /// In: the domain.
    pub dom: DomId,
    /// Padding.
    pub padding: u16,
    /// Out: the format of its table.
    pub version: u32,
}
layout!(GetVersion: 8, version @ 4);

/// An entry of the table (`struct grant_entry_v1`). The guest writes it at any time: use it as a word to be read
/// and exchanged atomically, never as a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantEntry {
    /// Type and state; [`Self::PERMIT_ACCESS`] and the like.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// The frame.
    pub frame: u32,
}
layout!(GrantEntry: 8, domid @ 2, frame @ 4);

impl GrantEntry {
    /// The domain may map the frame (`GTF_permit_access`).
    pub const PERMIT_ACCESS: u16 = 1 << 0;
    /// For reading only (`GTF_readonly`).
    pub const READ_ONLY: u16 = 1 << 2;
    /// It has it mapped for reading (`GTF_reading`).
    pub const READING: u16 = 1 << 3;
    /// It has it mapped for writing (`GTF_writing`).
    pub const WRITING: u16 = 1 << 4;

    /// `domain` may map `frame`. None for a frame number that does not fit.
    pub fn permit(domain: DomId, frame: Mfn) -> Option<Self> {
        let frame = u32::try_from(frame.0).ok()?;
        Some(Self { flags: Self::PERMIT_ACCESS, domid: domain.0, frame })
    }
}

/// Entries in a frame of the table.
pub const ENTRIES_PER_FRAME: u32 = (crate::PAGE_SIZE / size_of::<GrantEntry>()) as u32;
