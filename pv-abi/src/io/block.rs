//! Block devices (`io/blkif.h`): what a front-end asks and a back-end answers.
//!
//! A request fills a slot of the ring and comes in three shapes, told apart by its first byte: [`Request`],
//! [`DiscardRequest`] and [`IndirectRequest`]. Sectors have [`SECTOR_BYTES`] bytes here, whatever the medium has. The
//! layouts are those of 64-bit guests ([`PROTOCOL`]).

use crate::ids::GrantRef;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a sector, the unit of all sector numbers, whatever the disk's own sectors are.
pub const SECTOR_BYTES: u64 = 512;
/// The last sector of a page.
pub const LAST_SECTOR_OF_PAGE: u8 = (crate::PAGE_SIZE as u64 / SECTOR_BYTES - 1) as u8;
/// The node `protocol` of a front-end with these layouts, which is also what none means (`io/protocols.h`).
pub const PROTOCOL: &str = "x86_64-abi";
/// Segments of a [`Request`] (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
pub const MAX_SEGMENTS: usize = 11;
/// Pages of segments of an [`IndirectRequest`] (`BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST`).
pub const MAX_INDIRECT_PAGES: usize = 8;
/// Segments in a page of them.
pub const SEGMENTS_PER_PAGE: usize = crate::PAGE_SIZE / size_of::<Segment>();

wire_enum! {
    /// What is asked for (`BLKIF_OP_*`).
    pub struct Operation(u8) {
        /// Reads sectors into the front-end's pages.
        READ = 0,
        /// Writes sectors from the front-end's pages.
        WRITE = 1,
        /// Write sectors: after everything before it, and before everything after it.
        WRITE_BARRIER = 2,
        /// Make durable what was written.
        FLUSH_DISKCACHE = 3,
        /// The sectors' contents are not needed any more; what is read there later may be anything.
        DISCARD = 5,
        /// Read or write, with the segments in pages of their own.
        INDIRECT = 6,
    }
}

wire_enum! {
    /// How it ended (`BLKIF_RSP_*`).
    pub struct Status(i16) {
        /// The request is done. What it wrote need not be durable before a flush.
        OKAY = 0,
        /// The request has failed.
        ERROR = -1,
        /// This back-end, or this medium, does not do such things.
        EOPNOTSUPP = -2,
    }
}

/// `struct blkif_request_segment`: a run of sectors within one page of the front-end's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// The page that the front-end lends for it.
    pub gref: GrantRef,
    /// The first sector of the page that is used, from 0 to 7.
    pub first_sect: u8,
    /// Its last sector, which belongs to the run.
    pub last_sect: u8,
    /// Padding; it has no meaning.
    pub padding: u16,
}
layout!(Segment: 8, first_sect @ 4, last_sect @ 5);

/// `struct blkif_request`: reads, writes, barriers and flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// What is asked for: any of these but [`Operation::DISCARD`] and [`Operation::INDIRECT`].
    pub operation: Operation,
    /// How many of `seg` count.
    pub nr_segments: u8,
    /// The device's number, as the front-end knows it.
    pub handle: u16,
    /// Padding; it has no meaning.
    pub padding: u32,
    /// The front-end's own; the response has it.
    pub id: u64,
    /// The first sector on the disk.
    pub sector_number: u64,
    /// Where the data is, or goes.
    pub seg: [Segment; MAX_SEGMENTS],
}
layout!(Request: 112, nr_segments @ 1, handle @ 2, id @ 8, sector_number @ 16, seg @ 24);

/// `struct blkif_request_discard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DiscardRequest {
    /// [`Operation::DISCARD`].
    pub operation: Operation,
    /// [`Self::SECURE`] or 0.
    pub flag: u8,
    /// The disk, as in [`Request`].
    pub handle: u16,
    /// Padding; it has no meaning.
    pub padding: u32,
    /// What names the request in its response, as in [`Request`].
    pub id: u64,
    /// The first sector to be forgotten.
    pub sector_number: u64,
    /// How many sectors are to be forgotten.
    pub nr_sectors: u64,
}
layout!(DiscardRequest: 32, flag @ 1, handle @ 2, id @ 8, sector_number @ 16, nr_sectors @ 24);

impl DiscardRequest {
    /// Not even traces may remain (`BLKIF_DISCARD_SECURE`); ignored by back-ends that do not offer it.
    pub const SECURE: u8 = 1;
}

/// `struct blkif_request_indirect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndirectRequest {
    /// [`Operation::INDIRECT`].
    pub operation: Operation,
    /// [`Operation::READ`] or [`Operation::WRITE`].
    pub indirect_op: Operation,
    /// How many segments count.
    pub nr_segments: u16,
    /// Padding; it has no meaning.
    pub padding0: u32,
    /// What names the request in its response, as in [`Request`].
    pub id: u64,
    /// The first sector on the disk, as in [`Request`].
    pub sector_number: u64,
    /// The disk, as in [`Request`].
    pub handle: u16,
    /// Padding; it has no meaning.
    pub padding1: u16,
    /// Pages of [`Segment`]s.
    pub indirect_grefs: [GrantRef; MAX_INDIRECT_PAGES],
    /// Padding; it has no meaning.
    pub padding2: u32,
}
layout!(IndirectRequest: 64, nr_segments @ 2, id @ 8, sector_number @ 16, handle @ 24, indirect_grefs @ 28);

/// `struct blkif_response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// The request that is answered, by the number that it has given.
    pub id: u64,
    /// That of the request; of an indirect one, [`IndirectRequest::indirect_op`].
    pub operation: Operation,
    /// Padding; it has no meaning.
    pub padding0: u8,
    /// Whether the request is done.
    pub status: Status,
    /// Padding; it has no meaning.
    pub padding1: u32,
}
layout!(Response: 16, operation @ 8, status @ 10);

impl Response {
    /// The answer to a request.
    pub const fn new(id: u64, operation: Operation, status: Status) -> Self {
        Self { id, operation, padding0: 0, status, padding1: 0 }
    }
}

/// Bits of the node `info`.
pub mod info {
    /// The disk is a CD (`VDISK_CDROM`).
    pub const CDROM: u32 = 1;
    /// It can be taken out (`VDISK_REMOVABLE`).
    pub const REMOVABLE: u32 = 2;
    /// It cannot be written (`VDISK_READONLY`).
    pub const READ_ONLY: u32 = 4;
}
