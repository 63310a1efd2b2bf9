//! `memory_op` (`memory.h`).

use crate::ids::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// An operation (`XENMEM_*`).
    pub struct MemoryOp(u64) {
        /// Adds frames to a domain's memory.
        INCREASE_RESERVATION = 0,
        /// Gives frames of a domain's memory back.
        DECREASE_RESERVATION = 1,
        /// The machine's highest frame.
        MAXIMUM_RAM_PAGE = 2,
        /// Tells how many pages a domain has.
        CURRENT_RESERVATION = 3,
        /// Pages a domain may have.
        MAXIMUM_RESERVATION = 4,
        /// Tells the frames that the M2P table lies in.
        MACHPHYS_MFN_LIST = 5,
        /// Adds memory at given pfns.
        POPULATE_PHYSMAP = 6,
        /// Maps hypervisor pages; translated guests.
        ADD_TO_PHYSMAP = 7,
        /// The domain's memory map.
        MEMORY_MAP = 9,
        /// The machine's memory map; host domain only.
        MACHINE_MEMORY_MAP = 10,
        /// Gives frames back and gets others for them, in one call.
        EXCHANGE = 11,
        /// Where the M2P is mapped.
        MACHPHYS_MAPPING = 12,
        /// The domain's highest pfn.
        MAXIMUM_GPFN = 14,
    }
}

/// Bits of the command that hold the operation; the bits above hold a continuation's progress.
pub const COMMAND_MASK: u64 = (1 << 6) - 1;

/// `struct xen_machphys_mapping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MachphysMapping {
    /// First address of the table.
    pub v_start: u64,
    /// First address behind it.
    pub v_end: u64,
    /// Highest mfn that it has an entry for.
    pub max_mfn: u64,
}
layout!(MachphysMapping: 24, v_end @ 8, max_mfn @ 16);

/// `struct xen_memory_domain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryDomain {
    /// The domain asked about.
    pub domid: DomId,
}
layout!(MemoryDomain: 2);

/// `struct xen_memory_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMap {
    /// In: entries the buffer has room for. Out: entries stored.
    pub nr_entries: u32,
    /// Padding; it has no meaning.
    pub padding: u32,
    /// Address of an array of [`E820Entry`].
    pub buffer: u64,
}
layout!(MemoryMap: 16, buffer @ 8);

/// A range of a memory map (`struct e820entry` of the PC's BIOS interface).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct E820Entry {
    /// The address of the range's first byte.
    pub addr: u64,
    /// The length of the range in bytes, which need not be whole pages.
    pub size: u64,
    /// What is there: 1 for usable memory.
    pub kind: u32,
}
layout!(E820Entry: 20);

impl E820Entry {
    /// The range is usable memory.
    pub const RAM: u32 = 1;
}

/// `struct xen_memory_reservation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryReservation {
    /// Address of an array of frame numbers, one an extent.
    pub extent_start: u64,
    /// How many extents the list has.
    pub nr_extents: u64,
    /// Each has 2^this pages.
    pub extent_order: u32,
    /// Where the frames may lie: bits of `XENMEMF_*`.
    pub mem_flags: u32,
    /// The domain whose reservation changes.
    pub domid: DomId,
    /// Padding; it has no meaning.
    pub padding: [u16; 3],
}
layout!(MemoryReservation: 32, nr_extents @ 8, extent_order @ 16, mem_flags @ 20, domid @ 24);

/// `struct xen_memory_exchange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryExchange {
    /// `in`: the frames that are given back.
    pub input: MemoryReservation,
    /// `out`: what is wanted for it.
    pub output: MemoryReservation,
    /// Extents of `input` that are exchanged.
    pub nr_exchanged: u64,
}
layout!(MemoryExchange: 72, output @ 32, nr_exchanged @ 64);
