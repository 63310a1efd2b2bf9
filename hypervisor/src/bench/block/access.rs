//! What is done to a disk, so that the host and the guest do the same: at which places, and what sectors begin with.
//! `pv-guest-kernel/src/shell/measure.rs` has the other half.

use crate::bench::split_mix::scatter;
use pv_abi::io::block::SECTOR_BYTES;

/// Bytes of the disk: more than any cache of the processor has, and little enough to be written in no time.
pub const DISK_BYTES: u64 = 64 << 20;
const SECTORS: u64 = DISK_BYTES / SECTOR_BYTES;

/// What is done with each chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is read, and its sectors looked at.
    Read,
    /// Its sectors are marked, and it is written.
    Write,
    /// The same, and a flush behind it.
    Flush,
}

impl Action {
    /// What the guest calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

/// A load on the disk: one action, done with many chunks at pseudo-random places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// What is done with each chunk.
    pub action: Action,
    /// Bytes of a chunk, a multiple of a sector's.
    pub chunk: u64,
    /// Chunks that the guest has on their way together.
    pub depth: u32,
    /// How many chunks make one sample.
    pub count: u64,
}

impl Load {
    /// The first sector of each of a sample's chunks. Reads are of the disk's first half, writes to its second.
    pub fn places(self, seed: u32) -> impl Iterator<Item = u64> {
        let sectors = self.chunk / SECTOR_BYTES;
        let half = SECTORS / 2;
        let first = if self.action == Action::Read { 0 } else { half };
        (0..self.count).map(move |n| {
            let chunks = u128::from(half / sectors);
            let chunk = (u128::from(scatter(u64::from(seed) << 32 | n)) * chunks) >> 64;
            first + chunk as u64 * sectors
        })
    }
}

/// What a sector begins with.
pub fn mark(sector: u64, generation: u32) -> [u8; 8] {
    (0x5a << 56 | (u64::from(generation) & 0xffff) << 40 | sector).to_le_bytes()
}

/// Lets the sectors from `first` on begin with their marks of a generation.
pub fn stamp(first: u64, generation: u32, bytes: &mut [u8]) {
    for (bytes, sector) in bytes.chunks_mut(SECTOR_BYTES as usize).zip(first..) {
        bytes.iter_mut().zip(mark(sector, generation)).for_each(|(to, from)| *to = from);
    }
}

/// The first of the sectors from `first` on that does not begin with its mark. The others' marks are wiped out, so that
/// the next look is at what was read next.
pub fn wrong(first: u64, generation: u32, bytes: &mut [u8]) -> Option<u64> {
    for (bytes, sector) in bytes.chunks_mut(SECTOR_BYTES as usize).zip(first..) {
        let found = bytes.first_chunk_mut::<8>().filter(|found| **found == mark(sector, generation));
        match found {
            Some(found) => *found = [0; 8],
            None => return Some(sector),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_sector_and_one_generation() {
        let mut bytes = [7; 1024];
        stamp(40, 3, &mut bytes);
        assert_eq!(wrong(40, 2, &mut bytes), Some(40));
        assert_eq!(wrong(41, 3, &mut bytes), Some(41));
        assert_eq!(wrong(40, 3, &mut bytes), None);
        assert_eq!(wrong(40, 3, &mut bytes), Some(40), "it was looked at");
    }

    #[test]
    fn places_are_whole_chunks_of_the_half_that_is_meant() {
        for (action, half) in [(Action::Read, 0..SECTORS / 2), (Action::Write, SECTORS / 2..SECTORS)] {
            let load = Load { action, chunk: 64 << 10, depth: 8, count: 1000 };
            let places: Vec<_> = load.places(5).collect();
            assert!(places.iter().all(|place| half.contains(place) && place.is_multiple_of(128)));
            let different: std::collections::BTreeSet<_> = places.iter().collect();
            assert!(different.len() > 300, "{}", different.len());
        }
    }
}
