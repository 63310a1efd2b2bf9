//! `mmu_update`, `mmuext_op` and `update_va_mapping` (`xen.h`).

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// What an `mmu_update` does (`MMU_*`): bits 0–1 of its `ptr`.
    pub struct MmuUpdateKind(u64) {
        /// Checked `*ptr = val`; `ptr` is the machine address of an entry.
        NORMAL_PT_UPDATE = 0,
        /// Sets the M2P entry of the frame that holds `ptr`.
        MACHPHYS_UPDATE = 1,
        /// Like the first, and keeps the accessed and dirty bits.
        PT_UPDATE_PRESERVE_AD = 2,
        /// Like the first; `val` is never translated.
        PT_UPDATE_NO_TRANSLATE = 3,
    }
}

/// One update (`struct mmu_update`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuUpdate {
    /// Machine address of an entry, its two low bits an [`MmuUpdateKind`].
    pub ptr: u64,
    /// The entry's new contents.
    pub val: u64,
}
layout!(MmuUpdate: 16, ptr @ 0, val @ 8);

impl MmuUpdate {
    /// What the update is to do, from the two lowest bits of the address.
    pub const fn kind(&self) -> MmuUpdateKind {
        MmuUpdateKind(self.ptr & 3)
    }

    /// The machine address without the kind.
    pub const fn address(&self) -> u64 {
        self.ptr & !3
    }
}

wire_enum! {
    /// An operation of `mmuext_op` (`MMUEXT_*`).
    pub struct MmuExtCommand(u32) {
        /// Validates an L1 table and keeps it validated.
        PIN_L1_TABLE = 0,
        /// The same for an L2 table and all below.
        PIN_L2_TABLE = 1,
        /// The same for an L3 table and all below.
        PIN_L3_TABLE = 2,
        /// The same for an L4 table and all below.
        PIN_L4_TABLE = 3,
        /// Ends the pin of a table: it need not stay a table for its own sake.
        UNPIN_TABLE = 4,
        /// Loads the kernel's root table.
        NEW_BASEPTR = 5,
        /// Flushes this vCPU's translations.
        TLB_FLUSH_LOCAL = 6,
        /// Flushes this vCPU's translation of one address.
        INVLPG_LOCAL = 7,
        /// Flushes the translations of a set of vCPUs.
        TLB_FLUSH_MULTI = 8,
        /// Flushes one address on a set of vCPUs.
        INVLPG_MULTI = 9,
        /// Flushes the translations of all the domain's vCPUs.
        TLB_FLUSH_ALL = 10,
        /// Flushes one address on all the domain's vCPUs.
        INVLPG_ALL = 11,
        /// Writes back and invalidates caches; needs a device.
        FLUSH_CACHE = 12,
        /// Sets the local descriptor table.
        SET_LDT = 13,
        /// Sets the root table of user mode.
        NEW_USER_BASEPTR = 15,
        /// Fills a page of the caller with zeros.
        CLEAR_PAGE = 16,
        /// Copies a page of the caller to another.
        COPY_PAGE = 17,
        /// `FLUSH_CACHE` on every pcpu.
        FLUSH_CACHE_GLOBAL = 18,
        /// Large-page bookkeeping, gone.
        MARK_SUPER = 19,
        /// Large-page bookkeeping, gone.
        UNMARK_SUPER = 20,
    }
}

/// One extended operation (`struct mmuext_op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuExtOp {
    /// The operation, which decides what the arguments mean.
    pub cmd: MmuExtCommand,
    /// Padding of the C structure; ignored.
    pub padding: u32,
    /// `arg1`: an mfn or a linear address, by `cmd`.
    pub arg1: u64,
    /// `arg2`: a number of entries (low 32 bits), a pointer to a vCPU mask, or an mfn, by `cmd`.
    pub arg2: u64,
}
layout!(MmuExtOp: 24, cmd @ 0, arg1 @ 8, arg2 @ 16);

impl MmuExtOp {
    /// An operation with one argument.
    pub const fn new(cmd: MmuExtCommand, arg1: u64) -> Self {
        Self { cmd, padding: 0, arg1, arg2: 0 }
    }
}

bitflags! {
    /// The flush that `update_va_mapping` is asked for (`UVMF_*`). With a flush and without [`Self::ALL`],
    /// the other bits are a pointer to a vCPU mask, null meaning this vCPU.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct UpdateVaMappingFlags: u64 {
        /// Flush all translations.
        const TLB_FLUSH = 1;
        /// Flush the one translation.
        const INVLPG = 2;
        /// On all the domain's vCPUs.
        const ALL = 4;
    }
}

impl UpdateVaMappingFlags {
    /// The bits that say how to flush (`UVMF_FLUSHTYPE_MASK`).
    pub const FLUSH_TYPE_MASK: u64 = 3;
}
