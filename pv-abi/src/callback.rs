//! `callback_op` (`callback.h`).

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// An operation (`CALLBACKOP_*`).
    pub struct CallbackOp(u64) {
        /// Sets an entry point, in place of the one that was set before.
        REGISTER = 0,
        /// Removes an entry point.
        UNREGISTER = 1,
    }
}

wire_enum! {
    /// An entry point of the kernel (`CALLBACKTYPE_*`).
    pub struct CallbackType(u16) {
        /// Called when an event is pending and upcalls are not masked.
        EVENT = 0,
        /// A segment or address of a frame could not be loaded.
        FAILSAFE = 1,
        /// `syscall` in user mode.
        SYSCALL = 2,
        /// Replaced by [`CallbackType::SYSENTER`]; Xen still takes it.
        SYSENTER_DEPRECATED = 3,
        /// Called for a non-maskable interrupt.
        NMI = 4,
        /// `sysenter` in user mode.
        SYSENTER = 5,
        /// `syscall` in 32-bit user mode.
        SYSCALL32 = 7,
    }
}

bitflags! {
    /// Flags of [`CallbackRegister`] (`CALLBACKF_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CallbackFlags: u16 {
        /// Enter it with upcalls masked.
        const MASK_EVENTS = 1 << 0;
    }
}

/// `struct callback_register`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallbackRegister {
    /// `type`: which entry point.
    pub kind: CallbackType,
    /// What holds while the entry point runs: bits of [`CallbackFlags`].
    pub flags: u16,
    /// Padding; it has no meaning.
    pub padding: u32,
    /// The linear address of the entry point.
    pub address: u64,
}
layout!(CallbackRegister: 16, flags @ 2, address @ 8);
