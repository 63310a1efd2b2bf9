//! What Paravane offers beyond Xen's ABI. A guest that ignores all this works; a guest that uses it finds it by
//! [`CPUID_LEAF`], so that it works on Xen as well.
//!
//! Detection: `cpuid` (with [`crate::cpuid::EMULATE_PREFIX`]) of [`CPUID_LEAF`] returns [`SIGNATURE`] in EBX, ECX,
//! EDX and [`ExtensionFeatures`] in EAX.

use bitflags::bitflags;

/// The leaf behind Xen's own block of 256.
pub const CPUID_LEAF: u32 = 0x4000_0100;
/// `ParavaneExt ` in EBX, ECX, EDX.
pub const SIGNATURE: [u32; 3] =
    [u32::from_le_bytes(*b"Para"), u32::from_le_bytes(*b"vane"), u32::from_le_bytes(*b"Ext ")];

bitflags! {
    /// What is offered.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ExtensionFeatures: u32 {
        /// [`ExtensionOp::EXIT_STATUS`].
        const EXIT_STATUS = 1 << 0;
    }
}

/// The extension's hypercall number: the last that a hypercall page has an entry for, unused by Xen. Arguments:
/// [`ExtensionOp`], and one that depends on it.
pub const HYPERCALL_NUMBER: u64 = 127;

wire_enum! {
    /// An operation of the extension's hypercall.
    pub struct ExtensionOp(u64) {
        /// Sets the status (0–255) that a later poweroff reports to whoever started the domain. Returns 0;
        /// −EINVAL for a larger one.
        EXIT_STATUS = 0,
    }
}
