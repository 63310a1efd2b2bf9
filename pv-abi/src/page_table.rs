//! The format of x86-64 page tables, as the PV ABI exposes it (Intel SDM volume 3, 4.5; Xen's `xen-x86_64.h`).

use crate::address::{Mfn, PAGE_SHIFT};
use bitflags::bitflags;
use core::fmt;

/// Entries in a table of any level.
pub const ENTRIES: usize = 512;

bitflags! {
    /// Flag bits of a page-table entry, the same on every level but for what the comments say.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct PteFlags: u64 {
        /// The entry maps something; all else counts only then.
        const PRESENT = 1 << 0;
        /// What it maps may be written.
        const WRITABLE = 1 << 1;
        /// CPL3 may use it. PV guests run their kernels at CPL3 too.
        const USER = 1 << 2;
        /// Writes go through the cache to memory.
        const WRITE_THROUGH = 1 << 3;
        /// What it maps is not cached.
        const CACHE_DISABLE = 1 << 4;
        /// Set by the CPU at the first use.
        const ACCESSED = 1 << 5;
        /// Level 1: set by the CPU at the first write.
        const DIRTY = 1 << 6;
        /// Level 1: PAT selector. Levels 2 and 3: a large page.
        const PAGE_SIZE_OR_PAT = 1 << 7;
        /// Level 1: kept in the TLB across root switches.
        const GLOBAL = 1 << 8;
        /// A bit that the processor leaves to software.
        const AVAIL0 = 1 << 9;
        /// A bit that the processor leaves to software.
        const AVAIL1 = 1 << 10;
        /// A bit that the processor leaves to software.
        const AVAIL2 = 1 << 11;
        /// For software, bits 52–58.
        const AVAIL_HIGH = 0x7f << 52;
        /// Protection key, bits 59–62.
        const PROTECTION_KEY = 0xf << 59;
        /// No instruction may be fetched from what it maps.
        const NO_EXECUTE = 1 << 63;
    }
}

/// A page-table entry of any level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl Pte {
    /// Bits 12–51: where the frame number stands.
    pub const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

    /// An entry that maps `mfn` with `flags`.
    pub const fn new(mfn: Mfn, flags: PteFlags) -> Self {
        Self((mfn.address() & Self::FRAME_MASK) | flags.bits())
    }

    /// The frame it names; meaningless unless it is present.
    pub const fn mfn(self) -> Mfn {
        Mfn::containing(self.0 & Self::FRAME_MASK)
    }

    /// Everything that is not the frame number.
    pub const fn flags(self) -> PteFlags {
        PteFlags::from_bits_retain(self.0 & !Self::FRAME_MASK)
    }

    /// Whether the CPU would follow it.
    pub const fn is_present(self) -> bool {
        self.0 & PteFlags::PRESENT.bits() != 0
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pte {:#018x}", self.0)
    }
}

/// A level of the page-table tree: 4 is the root's, 1 that of the tables which map pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Level {
    /// A table whose entries map pages.
    L1 = 1,
    /// A table whose entries refer to L1 tables.
    L2 = 2,
    /// A table whose entries refer to L2 tables.
    L3 = 3,
    /// The root; holds L3 tables.
    L4 = 4,
}

impl Level {
    /// The four levels, lowest first.
    pub const ALL: [Self; 4] = [Self::L1, Self::L2, Self::L3, Self::L4];

    /// The level of the tables that this level's entries name; none below L1.
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L1 => None,
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
            Self::L4 => Some(Self::L3),
        }
    }

    /// How far an address is shifted right to get its index at this level.
    pub const fn shift(self) -> u32 {
        match self {
            Self::L1 => PAGE_SHIFT,
            Self::L2 => PAGE_SHIFT + 9,
            Self::L3 => PAGE_SHIFT + 18,
            Self::L4 => PAGE_SHIFT + 27,
        }
    }

    /// The index of `address` in a table of this level, below 512.
    pub const fn index(self, address: u64) -> usize {
        (address >> self.shift()) as usize & (ENTRIES - 1)
    }
}

/// The first L4 slot that belongs to the hypervisor (`ROOT_PAGETABLE_FIRST_XEN_SLOT`).
pub const FIRST_HYPERVISOR_SLOT: usize = 256;
/// The last L4 slot that belongs to the hypervisor (`ROOT_PAGETABLE_LAST_XEN_SLOT`).
pub const LAST_HYPERVISOR_SLOT: usize = 271;

/// Whether an L4 slot belongs to the hypervisor in every address space.
pub const fn is_hypervisor_slot(index: usize) -> bool {
    index >= FIRST_HYPERVISOR_SLOT && index <= LAST_HYPERVISOR_SLOT
}
