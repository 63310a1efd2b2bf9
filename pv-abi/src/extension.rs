//! What Paravane offers beyond Xen's ABI. A guest that ignores all this works; a guest that uses it finds it by
//! [`CPUID_LEAF`], so that it works on Xen as well.
//!
//! Detection: `cpuid` (with [`crate::cpuid::EMULATE_PREFIX`]) of [`CPUID_LEAF`] returns [`SIGNATURE`] in EBX, ECX,
//! EDX and [`ExtensionFeatures`] in EAX.

use crate::EventPort;
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The leaf behind Xen's own block of 256.
pub const CPUID_LEAF: u32 = 0x4000_0100;
/// `ParavaneExt ` in EBX, ECX, EDX.
pub const SIGNATURE: [u32; 3] =
    [u32::from_le_bytes(*b"Para"), u32::from_le_bytes(*b"vane"), u32::from_le_bytes(*b"Ext ")];

bitflags! {
    /// What Paravane offers a guest beyond Xen's interface: bits of the extension's leaf of `cpuid`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ExtensionFeatures: u32 {
        /// [`ExtensionOp::EXIT_STATUS`].
        const EXIT_STATUS = 1 << 0;
        /// [`ExtensionOp::DOORBELL`].
        const DOORBELL = 1 << 1;
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
        /// Gives a port that is connected to the host domain a doorbell: the argument points to a [`Doorbell`], which is
        /// filled in. A port that has one keeps it, and is told of it again. It goes with the connection: when the
        /// port is closed, or the back-end lets go of it. `EVTCHNOP_send` works as before.
        ///
        /// Returns 0; −EINVAL for a port that is closed or not connected to the host domain; −EOPNOTSUPP where its
        /// back-end, −ENODEV where the domain can have no doorbell; −ENOSPC where the domain, or the host, has no room
        /// for one more; −EFAULT. With all of these, notify by `EVTCHNOP_send`.
        DOORBELL = 1,
    }
}

/// A port's doorbell. A 4-byte store of `value` at `address` notifies the other end of the port, as `EVTCHNOP_send` does,
/// and costs a tenth of it.
///
/// Like that, it goes nowhere where nobody is connected any more. Any other access there raises #GP. The address is the
/// same for all of a domain's ports, under every root of its; programs can ring there, too.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Doorbell {
    /// The port, which the caller says.
    pub port: EventPort,
    /// The 32-bit value that rings the doorbell when it is stored.
    pub value: u32,
    /// The linear address at which it is to be stored.
    pub address: u64,
}

layout!(Doorbell: 16, port @ 0, value @ 4, address @ 8);
