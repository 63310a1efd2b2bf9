//! A disk in memory, gone with the process.

use super::Image;
use std::io;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

/// Anonymous memory: what was never written takes none of the host's.
#[derive(Debug)]
pub struct MemoryImage(MmapRegion);

impl MemoryImage {
    /// A disk of `bytes` that begins with `contents`; the rest is zero.
    ///
    /// # Errors
    /// Where the host has no such memory, or the contents do not fit.
    pub fn new(bytes: u64, contents: &[u8]) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let memory = MmapRegion::new(length).map_err(io::Error::other)?;
        memory.get_slice(0, contents.len()).map_err(io::Error::other)?.copy_from(contents);
        Ok(Self(memory))
    }

    /// What there is of `length` bytes from `offset` on.
    fn range(&self, offset: u64, length: usize) -> io::Result<VolatileSlice<'_>> {
        let size = self.0.size();
        let offset = usize::try_from(offset).unwrap_or(size).min(size);
        let there = size.saturating_sub(offset);
        self.0.get_slice(offset, length.min(there)).map_err(io::Error::other)
    }

    /// Calls `copy` with the part of the image that belongs to each slice.
    fn each(
        &self,
        offset: u64,
        slices: &[VolatileSlice<'_>],
        copy: impl Fn(VolatileSlice<'_>, VolatileSlice<'_>),
    ) -> io::Result<usize> {
        let mut done: usize = 0;
        for slice in slices {
            let range = self.range(offset.saturating_add(done as u64), slice.len())?;
            let length = range.len();
            copy(range, slice.subslice(0, length).map_err(io::Error::other)?);
            done = done.saturating_add(length);
        }
        Ok(done)
    }
}

impl Image for MemoryImage {
    fn bytes(&self) -> u64 {
        self.0.size() as u64
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        self.each(offset, into, |image, memory| image.copy_to_volatile_slice(memory))
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
        self.each(offset, from, |image, memory| memory.copy_to_volatile_slice(image))
    }

    /// Nothing outlives the process, so nothing is to be done for that.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let range = self.range(offset, usize::try_from(length).unwrap_or(usize::MAX))?;
        for start in (0..range.len()).step_by(ZEROS.len()) {
            // Copies as much as there is room for.
            range.offset(start).map_err(io::Error::other)?.copy_from(&ZEROS);
        }
        Ok(())
    }
}
