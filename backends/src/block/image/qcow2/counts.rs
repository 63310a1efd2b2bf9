//! The reference counts of clusters, as they are in the file.

use super::header::Header;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// Bits of an entry of the L1 table, or of an L2 table, that are the offset of a cluster.
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The bit of such an entry whose cluster nobody else refers to: it is written in place.
pub const OWN: u64 = 1 << 63;

/// How counts are laid out: a table of blocks, each a cluster of counts.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub cluster_bits: u32,
    /// A count has 2 to the power of this bits.
    order: u32,
    pub table: u64,
    /// Blocks that the table has room for.
    pub blocks: u64,
}

impl Layout {
    pub fn new(header: &Header) -> Self {
        let Header { cluster_bits, refcount_order, refcount_table, refcount_table_bytes, .. } = *header;
        Self { cluster_bits, order: refcount_order, table: refcount_table, blocks: refcount_table_bytes / 8 }
    }

    /// Counts in a block, as a power of 2.
    const fn block_bits(&self) -> u32 {
        self.cluster_bits.saturating_add(3).saturating_sub(self.order)
    }

    /// Clusters whose counts are in one block.
    pub const fn counts_of_a_block(&self) -> usize {
        1 << self.block_bits()
    }

    /// In which block the count of a cluster is, and where there.
    pub const fn position(&self, cluster: u64) -> (u64, u64) {
        let bits = self.block_bits();
        (cluster >> bits, cluster & !(u64::MAX << bits))
    }

    /// Where the entry of a block is, in the file.
    pub const fn entry(&self, block: u64) -> u64 {
        self.table.saturating_add(block.saturating_mul(8))
    }

    /// Bytes of counts that hold the one at `index`: from where, how many, and, where that is one byte, from which bit on.
    const fn bytes(&self, index: u64) -> (u64, usize, u32) {
        match self.order {
            0..3 => {
                let bit = index << self.order;
                (bit / 8, 1, (bit % 8) as u32)
            }
            order => {
                let bits = order.saturating_sub(3);
                (index << bits, 1 << bits, 0)
            }
        }
    }

    /// The largest reference count that the image's width holds.
    const fn largest(&self) -> u64 {
        u64::MAX >> 64_u32.saturating_sub(1 << self.order)
    }

    /// The count at an index of a block.
    pub fn count(&self, block: &[u8], index: u64) -> u64 {
        let (at, length, bit) = self.bytes(index);
        let bytes = block.get(at as usize..).and_then(|bytes| bytes.get(..length)).unwrap_or_default();
        (bytes.iter().fold(0, |count, byte| count << 8 | u64::from(*byte)) >> bit) & self.largest()
    }

    /// Sees to it that the count of a cluster, in the file, is not 0.
    ///
    /// # Errors
    /// The host's, and where the file has no block for the cluster.
    pub fn raise(&self, file: &File, cluster: u64) -> io::Result<()> {
        let (block, index) = self.position(cluster);
        let lost =
            || io::Error::new(ErrorKind::InvalidData, "a cluster is to be used that cannot be counted");
        if block >= self.blocks {
            return Err(lost());
        }
        let offset = read_u64(file, self.entry(block))? & OFFSET;
        if offset == 0 {
            return Err(lost());
        }
        let (at, length, bit) = self.bytes(index);
        let (mut bytes, at) = ([0; 8], offset.saturating_add(at));
        let bytes = bytes.get_mut(..length).unwrap_or_default();
        file.read_exact_at(bytes, at)?;
        let count = bytes.iter().fold(0, |count, byte| count << 8 | u64::from(*byte));
        if count >> bit & self.largest() == 0 {
            if let Some(last) = bytes.last_mut() {
                *last |= 1 << bit;
            }
            super::storage::write_at(file, bytes, at)?;
        }
        Ok(())
    }
}

/// Reads an entry of a table.
pub fn read_u64(file: &File, offset: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(u64::from_be_bytes(bytes))
}
