//! The console ring (`io/console.h`): two byte rings in one page, each with one producer and one consumer.
//!
//! The guest owns `in_cons` and `out_prod`, the back-end `in_prod` and `out_cons`. Indices run freely and are
//! masked at use; [`super::byte_ring`] is the whole arithmetic.

pub use super::byte_ring::{BadIndices, free, run, used};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the ring towards the guest.
pub const IN_SIZE: u32 = 1024;
/// Bytes of the ring from the guest.
pub const OUT_SIZE: u32 = 2048;

/// The page (`struct xencons_interface`). Both sides write it at once: use it as offsets, never as a reference.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConsoleInterface {
    /// `in`: towards the guest.
    pub input: [u8; IN_SIZE as usize],
    /// `out`: from the guest.
    pub output: [u8; OUT_SIZE as usize],
    /// The guest has consumed this many bytes of `input`.
    pub in_cons: u32,
    /// The back-end has produced this many.
    pub in_prod: u32,
    /// The back-end has consumed this many bytes of `output`.
    pub out_cons: u32,
    /// The guest has produced this many.
    pub out_prod: u32,
}
layout!(ConsoleInterface: 3088, input @ 0, output @ 1024, in_cons @ 3072, in_prod @ 3076, out_cons @ 3080, out_prod @ 3084);
