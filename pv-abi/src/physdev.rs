//! `physdev_op` (`physdev.h`), as far as an unprivileged guest needs it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// An operation (`PHYSDEVOP_*`).
    pub struct PhysdevOp(u64) {
        /// Sets the kernel's I/O privilege level.
        SET_IOPL = 6,
        /// Sets the I/O permission map.
        SET_IOBITMAP = 7,
    }
}

/// `struct physdev_set_iopl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIopl {
    /// The level, 0–3. A PV kernel counts as ring 1.
    pub iopl: u32,
}
layout!(SetIopl: 4);
