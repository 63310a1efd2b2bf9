//! Frames and addresses: machine frames, a domain's pseudo-physical frames, and the arithmetic between them.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of an address that lie within a page.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page, the unit of all frame numbers.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// A machine frame number: the number of a page of the machine's memory (`xen_pfn_t` where Xen's comments say
/// MFN). Page-table entries of a PV guest hold these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Mfn(pub u64);

impl Mfn {
    /// The frame that holds the machine address `address` (bytes).
    pub const fn containing(address: u64) -> Self {
        Self(address >> PAGE_SHIFT)
    }

    /// The machine address (bytes) of the frame's first byte. Frame numbers of 2^52 and above, which no
    /// hardware has, lose their high bits.
    pub const fn address(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

/// A domain's own frame number (`xen_pfn_t`), 0 up to the number of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The entry of the M2P or of a p2m for "no such frame": all ones.
    pub const INVALID: Self = Self(u64::MAX);
}

impl fmt::Debug for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mfn {:#x}", self.0)
    }
}

impl fmt::Display for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// True where bits 63–48 all equal bit 47, as the hardware demands of every address it is given to use.
pub const fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

/// First address of the range that Xen's ABI reserves for the hypervisor (`HYPERVISOR_VIRT_START`).
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// First address behind that range (`HYPERVISOR_VIRT_END`).
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
/// Where Xen's ABI promises the machine-to-physical table (`MACH2PHYS_VIRT_START`): a read-only array of `u64`.
pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// First address behind that table (`MACH2PHYS_VIRT_END`).
pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
