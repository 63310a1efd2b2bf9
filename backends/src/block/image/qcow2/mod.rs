//! qcow2 images, through `imago`.
//!
//! What is moved passes through a buffer of the host's own: `imago` works on slices, and no slice is ever made of memory
//! that a guest can write.

mod chain;
mod counts;
mod header;
mod order;
mod references;
mod storage;

pub(super) use header::MAGIC;
#[cfg(test)]
pub use storage::journal;

use super::file::ImageFile;
use super::{Image, ImageError};
use counts::{OFFSET, OWN, read_u64};
use header::Header;
use imago::FormatAccess;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use storage::StrictFile;
use vm_memory::VolatileSlice;

/// A qcow2 image with the images that it is based on.
#[derive(Debug)]
pub struct Qcow2Image {
    access: Mutex<FormatAccess<StrictFile>>,
    bytes: u64,
    header: Header,
    writable: bool,
    /// The same file, to be looked at.
    file: File,
}

impl Qcow2Image {
    /// Opens the image in `file`, and read-only for `user` whatever it is based on.
    pub(super) fn open(file: ImageFile, writable: bool, user: &str) -> Result<Self, ImageError> {
        let again =
            file.file.try_clone().map_err(|error| file.error(format!("it cannot be opened: {error}")))?;
        let (access, header) = chain::open(file, writable, user)?;
        let bytes = access.size();
        Ok(Self { access: Mutex::new(access), bytes, header, writable, file: again })
    }

    fn access(&self) -> MutexGuard<'_, FormatAccess<StrictFile>> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes from `offset` to the end of the disk, or of what one L2 table stands for.
    fn bytes_of_table(&self, offset: u64) -> u64 {
        let bits = self.header.table_bits();
        let next = (offset >> bits).saturating_add(1).saturating_mul(1 << bits);
        next.min(self.bytes).saturating_sub(offset)
    }

    /// Gets ready to change what is at `offset`, no further than its L2 table goes. Where `imago` will make that table, it
    /// may take a cluster for it that was freed. So nothing in the file may refer to that any more.
    fn prepare(&self, access: &FormatAccess<StrictFile>, offset: u64) -> io::Result<()> {
        let entry = (offset >> self.header.table_bits()).saturating_mul(8);
        let entry = read_u64(&self.file, self.header.l1.saturating_add(entry))?;
        if has_own_table(entry) { Ok(()) } else { access.flush() }
    }
}

/// Whether an entry of the L1 table refers to an L2 table that nothing else does.
const fn has_own_table(entry: u64) -> bool {
    entry & OFFSET != 0 && entry & OWN != 0
}

/// A buffer for as much of `slices` as there is.
fn buffer(there: u64, slices: &[VolatileSlice<'_>]) -> Vec<u8> {
    let wanted: usize = slices.iter().map(VolatileSlice::len).sum();
    vec![0; wanted.min(usize::try_from(there).unwrap_or(usize::MAX))]
}

impl Image for Qcow2Image {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut buffer = buffer(self.bytes.saturating_sub(offset), into);
        self.access().read(&mut buffer[..], offset)?;
        let mut rest = &buffer[..];
        for slice in into {
            let (now, later) = rest.split_at(slice.len().min(rest.len()));
            slice.copy_from(now);
            rest = later;
        }
        Ok(buffer.len())
    }

    /// Falls short where another L2 table begins.
    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut buffer = buffer(self.bytes_of_table(offset), from);
        let mut rest = &mut buffer[..];
        for slice in from {
            let (now, later) = rest.split_at_mut(slice.len().min(rest.len()));
            slice.copy_to(now);
            rest = later;
        }
        let access = self.access();
        self.prepare(&access, offset)?;
        access.write(&buffer[..], offset)?;
        Ok(buffer.len())
    }

    fn flush(&self) -> io::Result<()> {
        let access = self.access();
        access.flush()?;
        access.sync()
    }

    fn write_back(&self) -> io::Result<()> {
        if self.writable { self.access().flush() } else { Ok(()) }
    }

    fn discard(&self, mut offset: u64, length: u64) -> io::Result<()> {
        let end = offset.saturating_add(length).min(self.bytes);
        let mut access = self.access();
        while offset < end {
            let length = self.bytes_of_table(offset).min(end.saturating_sub(offset));
            self.prepare(&access, offset)?;
            access.discard_to_zero(offset, length)?;
            offset = offset.saturating_add(length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_shared_or_absent_is_no_own_one() {
        const OTHERS: u64 = !(OFFSET | OWN);
        for others in [0, OTHERS] {
            assert!(has_own_table(OWN | 1 << 16 | others));
            assert!(!has_own_table(1 << 16 | others), "a snapshot has it, too");
            assert!(!has_own_table(OWN | others) && !has_own_table(others), "there is none");
        }
    }
}
