//! Rings of bytes with one producer and one consumer: the console's and the store's.
//!
//! Indices run freely and are masked at use. The functions here are the whole arithmetic, for both ends; whoever holds
//! the page does the copying. A peer that moved its index further than the ring is long is told from one that did not.

/// The indices of a byte ring do not fit together: the peer has produced more than there is room for, or
/// consumed what was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndices {
    /// The producer's index: how many bytes it has put in, modulo 2^32.
    pub prod: u32,
    /// The consumer's index: how many bytes it has taken out, modulo 2^32.
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
pub const fn run(size: u32, index: u32, wanted: u32) -> (u32, u32) {
    let offset = index & size.wrapping_sub(1);
    let to_end = size.wrapping_sub(offset);
    (offset, if wanted < to_end { wanted } else { to_end })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 1024;

    #[test]
    fn indices_wrap() {
        assert_eq!(used(SIZE, 5, u32::MAX - 4), Ok(10));
        assert_eq!(free(SIZE, 5, u32::MAX - 4), Ok(SIZE - 10));
        assert_eq!(run(SIZE, u32::MAX, 8), (SIZE - 1, 1));
    }

    #[test]
    fn a_lying_peer_is_an_error() {
        assert_eq!(used(SIZE, SIZE + 1, 0), Err(BadIndices { prod: SIZE + 1, cons: 0 }));
        assert_eq!(free(SIZE, 0, 1), Err(BadIndices { prod: 0, cons: 1 }));
    }
}
