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

/// `struct physdev_set_iobitmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIoBitmap {
    /// The address of a map of ports, of which a set bit closes one.
    pub bitmap: u64,
    /// Ports that it has; all others are closed.
    pub nr_ports: u32,
    /// Padding; it has no meaning.
    pub padding: u32,
}
layout!(SetIoBitmap: 16, nr_ports @ 8);
