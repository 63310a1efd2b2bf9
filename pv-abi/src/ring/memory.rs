//! The memory that a ring lies in.

/// Memory that the peer writes at the same time: one page, or several that count as one. Whoever has such memory
/// checks that accesses stay within it.
pub trait RingMemory {
    /// Why an access could not be made.
    type Error;

    /// Reads an aligned index; what the peer wrote before it is seen by reads after it, and no read or write of the
    /// caller's passes it in either direction (sequentially consistent).
    ///
    /// # Errors
    /// Where the memory is gone, or not that large.
    fn load_u32(&self, offset: usize) -> Result<u32, Self::Error>;

    /// Writes an aligned index; whoever sees it sees what was written before it (sequentially consistent).
    ///
    /// # Errors
    /// As [`Self::load_u32`].
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), Self::Error>;

    /// Copies bytes out.
    ///
    /// # Errors
    /// As [`Self::load_u32`].
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Copies bytes in.
    ///
    /// # Errors
    /// As [`Self::load_u32`].
    fn write(&self, offset: usize, from: &[u8]) -> Result<(), Self::Error>;
}

/// Why a ring is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError<E> {
    /// The peer's index is further than the ring is long, or moved backwards.
    Overrun {
        /// What the peer says it has produced.
        produced: u32,
        /// How far the own end has come.
        consumed: u32,
    },
    /// The own end puts more than there is room for: requests into a full ring, or responses nobody asked for.
    NoRoom,
    /// The memory is too small for a single slot.
    TooSmall,
    /// The memory could not be accessed.
    Memory(E),
}

impl<E> From<E> for RingError<E> {
    fn from(error: E) -> Self {
        Self::Memory(error)
    }
}
