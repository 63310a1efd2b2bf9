//! Who and which: domains, vCPUs, event ports. Each is its own type, so that a guest's number is never an index
//! by accident.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A domain's number (`domid_t`, `xen.h`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct DomId(pub u16);

impl DomId {
    /// The host domain: back-ends, xenstore, console.
    pub const HOST: Self = Self(0);
    /// The first number that names no ordinary domain (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The caller itself (`DOMID_SELF`).
    pub const SELF: Self = Self(0x7ff0);
    /// Owner of I/O memory (`DOMID_IO`).
    pub const IO: Self = Self(0x7ff1);
    /// The hypervisor as an owner of frames (`DOMID_XEN`).
    pub const XEN: Self = Self(0x7ff2);
    /// Nobody (`DOMID_INVALID`).
    pub const INVALID: Self = Self(0x7ff4);
}

impl fmt::Debug for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SELF => f.write_str("DOMID_SELF"),
            Self::IO => f.write_str("DOMID_IO"),
            Self::XEN => f.write_str("DOMID_XEN"),
            Self::INVALID => f.write_str("DOMID_INVALID"),
            Self(number) => write!(f, "d{number}"),
        }
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A vCPU's number within its domain.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct VcpuId(pub u32);

/// An event channel's port within its domain (`evtchn_port_t`, `event_channel.h`). Port 0 is never valid.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct EventPort(pub u32);

/// The number of an entry of a domain's grant table (`grant_ref_t`, `grant_table.h`).
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct GrantRef(pub u32);

impl GrantRef {
    /// The console ring, granted by the domain's builder (`GNTTAB_RESERVED_CONSOLE`).
    pub const CONSOLE: Self = Self(0);
    /// The xenstore ring, granted by the domain's builder (`GNTTAB_RESERVED_XENSTORE`).
    pub const XENSTORE: Self = Self(1);
}
