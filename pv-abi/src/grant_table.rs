//! `grant_table_op` (`grant_table.h`): the table by which a domain lends its pages. Version 1 of its format.

use crate::address::Mfn;
use crate::ids::{DomId, GrantRef};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// An operation (`GNTTABOP_*`). Arguments: address of an array of its structure, and how many there are.
    pub struct GrantTableOp(u64) {
        /// Maps a page that another domain lends: [`MapGrantRef`].
        MAP_GRANT_REF = 0,
        /// Ends a mapping: [`UnmapGrantRef`].
        UNMAP_GRANT_REF = 1,
        /// Tells the frames of the caller's grant table, and makes it larger: [`SetupTable`].
        SETUP_TABLE = 2,
        /// Prints a table; host domain only.
        DUMP_TABLE = 3,
        /// Copies between pages, at least one of which is usually lent: [`GrantCopy`].
        COPY = 5,
        /// Tells how large a grant table is, and may become: [`QuerySize`].
        QUERY_SIZE = 6,
        /// Ends a mapping and puts another entry in its place: [`UnmapAndReplace`].
        UNMAP_AND_REPLACE = 7,
        /// Chooses the layout of the grant table's entries: [`SetVersion`].
        SET_VERSION = 8,
        /// Tells the layout of the grant table's entries: [`GetVersion`].
        GET_VERSION = 10,
    }
}

wire_enum! {
    /// How an operation on one element ended (`GNTST_*`).
    pub struct GrantStatus(i16) {
        /// The operation is done.
        OKAY = 0,
        /// It is not, for a reason without a number.
        GENERAL_ERROR = -1,
        /// The domain that was named does not exist.
        BAD_DOMAIN = -2,
        /// No such entry in its table.
        BAD_GNTREF = -3,
        /// The caller has no such mapping.
        BAD_HANDLE = -4,
        /// The result cannot be stored.
        BAD_VIRT_ADDR = -5,
        /// It is not the caller's to do.
        PERMISSION_DENIED = -8,
        /// The page cannot be used for this.
        BAD_PAGE = -9,
        /// A copy leaves its page.
        BAD_COPY_ARG = -10,
        /// The caller has as many mappings as it may.
        NO_SPACE = -13,
    }
}

/// A mapping of a granted page (`grant_handle_t`), good for unmapping it.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct GrantHandle(pub u32);

/// What a mapping is to be (`GNTMAP_*`): bits of [`MapGrantRef::flags`].
pub struct MapFlags;

impl MapFlags {
    /// For a device (`GNTMAP_device_map`).
    pub const DEVICE_MAP: u32 = 1 << 0;
    /// For the caller (`GNTMAP_host_map`).
    pub const HOST_MAP: u32 = 1 << 1;
    /// For reading only (`GNTMAP_readonly`).
    pub const READ_ONLY: u32 = 1 << 2;
    /// The address is that of a page-table entry, in machine memory (`GNTMAP_contains_pte`).
    pub const CONTAINS_PTE: u32 = 1 << 4;
    /// The lowest bit that the caller may set in the entry for itself (`_GNTMAP_guest_avail0`): these three go to the
    /// entry's three.
    pub const GUEST_AVAIL_SHIFT: u32 = 16;
}

/// `struct gnttab_map_grant_ref`: maps a page that another domain grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapGrantRef {
    /// In: where; by [`MapFlags::CONTAINS_PTE`], a linear address or that of an entry.
    pub host_addr: u64,
    /// In: what the mapping is to be, bits of [`MapFlags`].
    pub flags: u32,
    /// `ref`. In: the entry of the granter's table.
    pub reference: GrantRef,
    /// In: the domain that lends the page.
    pub dom: DomId,
    /// Out: whether the page is mapped, or why it is not.
    pub status: GrantStatus,
    /// Out: what names the mapping when it is to end.
    pub handle: GrantHandle,
    /// Out: the page's machine address.
    pub dev_bus_addr: u64,
}
layout!(MapGrantRef: 32, flags @ 8, reference @ 12, dom @ 16, status @ 18, handle @ 20, dev_bus_addr @ 24);

/// `struct gnttab_unmap_grant_ref`: ends a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// In: where it is, as it was said when it was made.
    pub host_addr: u64,
    /// In: the frame's machine address, where the part for a device is to end; else 0.
    pub dev_bus_addr: u64,
    /// In: what names the mapping.
    pub handle: GrantHandle,
    /// Out: whether the mapping has ended, or why it has not.
    pub status: GrantStatus,
    /// Padding; it has no meaning.
    pub padding: u16,
}
layout!(UnmapGrantRef: 24, dev_bus_addr @ 8, handle @ 16, status @ 20);

/// `struct gnttab_unmap_and_replace`: ends a mapping, and moves another one's entry to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapAndReplace {
    /// In: the linear address of the mapping that ends.
    pub host_addr: u64,
    /// In: the linear address whose entry moves; nothing is mapped there any more.
    pub new_addr: u64,
    /// In: the mapping that ends.
    pub handle: GrantHandle,
    /// Out: whether the table is set up, or why it is not.
    pub status: GrantStatus,
    /// Padding; it has no meaning.
    pub padding: u16,
}
layout!(UnmapAndReplace: 24, new_addr @ 8, handle @ 16, status @ 20);

/// One side of a [`GrantCopy`] (`struct gnttab_copy_ptr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyPointer {
    /// `u`: a grant reference in the low 32 bits, or a frame of the caller's.
    pub page: u64,
    /// The domain whose page it is.
    pub domid: DomId,
    /// The first byte of the page that is copied from or to, below 4096.
    pub offset: u16,
    /// Padding; it has no meaning.
    pub padding: u32,
}
layout!(CopyPointer: 16, domid @ 8, offset @ 10);

/// `struct gnttab_copy`: copies within a page from, to or between granted pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantCopy {
    /// In: where the bytes are.
    pub source: CopyPointer,
    /// In: where the bytes go.
    pub dest: CopyPointer,
    /// In: how many bytes are copied. They may not leave the page at either end.
    pub len: u16,
    /// In: [`Self::SOURCE_GREF`], [`Self::DEST_GREF`].
    pub flags: u16,
    /// Out: whether the bytes are copied, or why they are not.
    pub status: GrantStatus,
    /// Padding; it has no meaning.
    pub padding: u16,
}
layout!(GrantCopy: 40, dest @ 16, len @ 32, flags @ 34, status @ 36);

impl GrantCopy {
    /// The source is a grant (`GNTCOPY_source_gref`).
    pub const SOURCE_GREF: u16 = 1 << 0;
    /// The destination is a grant (`GNTCOPY_dest_gref`).
    pub const DEST_GREF: u16 = 1 << 1;
}

/// `struct gnttab_setup_table`: makes the table as large as asked for, and says where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupTable {
    /// In: the domain whose table is asked about, or `DOMID_SELF`.
    pub dom: DomId,
    /// Padding; it has no meaning.
    pub padding0: u16,
    /// In: frames that the table shall have at least.
    pub nr_frames: u32,
    /// Out: whether the numbers are told, or why they are not.
    pub status: GrantStatus,
    /// Padding; it has no meaning.
    pub padding1: [u16; 3],
    /// In: address of an array of as many frame numbers.
    pub frame_list: u64,
}
layout!(SetupTable: 24, nr_frames @ 4, status @ 8, frame_list @ 16);

/// `struct gnttab_query_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuerySize {
    /// In: the domain whose table is asked about, or `DOMID_SELF`.
    pub dom: DomId,
    /// Padding; it has no meaning.
    pub padding0: u16,
    /// Out: frames that its table has.
    pub nr_frames: u32,
    /// Out: frames that it can have.
    pub max_nr_frames: u32,
    /// Out: whether the call has succeeded, or why it has not.
    pub status: GrantStatus,
    /// Padding; it has no meaning.
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
    /// In: the domain whose table is asked about, or `DOMID_SELF`.
    pub dom: DomId,
    /// Padding; it has no meaning.
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
    /// The domain that may use the page.
    pub domid: u16,
    /// The frame that is lent: the low 32 bits of its number.
    pub frame: u32,
}
layout!(GrantEntry: 8, domid @ 2, frame @ 4);

impl GrantEntry {
    /// The domain may map the frame (`GTF_permit_access`).
    pub const PERMIT_ACCESS: u16 = 1 << 0;
    /// The bits that say what the entry is for (`GTF_type_mask`).
    pub const TYPE_MASK: u16 = 3;
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

/// Entries that the domain's builder may have filled (`GNTTAB_NR_RESERVED_ENTRIES`).
pub const RESERVED_ENTRIES: u32 = 8;
/// Entries in a frame of the table.
pub const ENTRIES_PER_FRAME: u32 = (crate::PAGE_SIZE / size_of::<GrantEntry>()) as u32;
