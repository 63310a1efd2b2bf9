//! Selectors, descriptors and segment bases (`arch-x86/xen.h`, `arch-x86/xen-x86_64.h`).

/// 64-bit code at CPL3 (`FLAT_RING3_CS64`); a kernel's frames show it with RPL 0, as [`FLAT_KERNEL_CS64`].
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Stack and data at CPL3 (`FLAT_RING3_SS64`).
pub const FLAT_RING3_SS64: u16 = 0xe02b;
/// 32-bit code at CPL3 (`FLAT_RING3_CS32`).
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// The data selector of 64-bit mode (`FLAT_RING3_DS64`).
pub const FLAT_RING3_DS64: u16 = 0;
/// [`FLAT_RING3_CS64`] as a frame of kernel mode shows it.
pub const FLAT_KERNEL_CS64: u16 = FLAT_RING3_CS64 & !3;

/// Bytes of a GDT that are the guest's; the hypervisor's descriptors follow (`FIRST_RESERVED_GDT_BYTE`).
pub const FIRST_RESERVED_GDT_BYTE: u32 = 14 * 4096;
/// Entries of a GDT that are the guest's (`FIRST_RESERVED_GDT_ENTRY`).
pub const FIRST_RESERVED_GDT_ENTRY: u32 = FIRST_RESERVED_GDT_BYTE / 8;
/// Descriptors in one frame of a descriptor table.
pub const DESCRIPTORS_PER_FRAME: u32 = 512;

wire_enum! {
    /// Which base `set_segment_base` sets (`SEGBASE_*`).
    pub struct SegmentBase(u64) {
        /// Sets the base of FS, which both modes share.
        FS = 0,
        /// Sets the base that GS has in user mode.
        GS_USER = 1,
        /// Sets the base that GS has in kernel mode.
        GS_KERNEL = 2,
        /// The user GS selector, in bits 0–15; never fails.
        GS_USER_SEL = 3,
    }
}
