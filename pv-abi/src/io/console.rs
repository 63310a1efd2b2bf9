//! The console ring (`io/console.h`): two byte rings in one page, each with one producer and one consumer.
//!
//! The guest owns `in_cons` and `out_prod`, the back-end `in_prod` and `out_cons`. Indices run freely and are
//! masked at use. The functions here are the whole arithmetic; whoever holds the page does the copying. A peer
//! that moved its index further than the ring is long is told from one that did not.

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

/// The indices of a byte ring do not fit together: the peer has produced more than there is room for, or
/// consumed what was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndices {
    /// The producer's index.
    pub prod: u32,
    /// The consumer's index.
    pub cons: u32,
}

/// Bytes that can be consumed.
///
/// # Errors
/// [`BadIndices`] where that is more than the ring holds.
pub const fn used(size: u32, prod: u32, cons: u32) -> Result<u32, BadIndices> {
    let used = prod.wrapping_sub(cons);
    if used > size { Err(BadIndices { prod, cons }) } else { Ok(used) }
}

/// Bytes that can be produced.
///
/// # Errors
/// [`BadIndices`] as for [`used`].
pub const fn free(size: u32, prod: u32, cons: u32) -> Result<u32, BadIndices> {
    match used(size, prod, cons) {
        Ok(used) => Ok(size.wrapping_sub(used)), // no more than the size
        Err(bad) => Err(bad),
    }
}

/// Where in the ring a run of at most `wanted` bytes from `index` lies: offset, and length up to the ring's end.
/// The size is a power of two.
pub const fn run(size: u32, index: u32, wanted: u32) -> (u32, u32) {
    let offset = index & size.wrapping_sub(1);
    let to_end = size.wrapping_sub(offset);
    (offset, if wanted < to_end { wanted } else { to_end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_wrap() {
        assert_eq!(used(OUT_SIZE, 5, u32::MAX - 4), Ok(10));
        assert_eq!(free(OUT_SIZE, 5, u32::MAX - 4), Ok(OUT_SIZE - 10));
        assert_eq!(run(IN_SIZE, u32::MAX, 8), (IN_SIZE - 1, 1));
    }

    #[test]
    fn a_lying_peer_is_an_error() {
        assert_eq!(used(IN_SIZE, IN_SIZE + 1, 0), Err(BadIndices { prod: IN_SIZE + 1, cons: 0 }));
        assert_eq!(free(IN_SIZE, 0, 1), Err(BadIndices { prod: 0, cons: 1 }));
    }
}
