//! A file or block device that holds the disk's bytes as they are.

use super::file::ImageFile;
use super::lock::Lock;
use super::{Image, ImageError, system};
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use vm_memory::VolatileSlice;

/// An open file or block device.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    bytes: u64,
    _lock: Option<Lock>,
}

impl RawImage {
    /// The disk in `file`, as large as that is now.
    ///
    /// # Errors
    /// Where its size cannot be learned.
    pub fn new(file: File) -> io::Result<Self> {
        let bytes = size(&file)?;
        Ok(Self { file, bytes, _lock: None })
    }

    /// The disk in a file that was opened as an image.
    pub(super) fn locked(file: ImageFile) -> Result<Self, ImageError> {
        let bytes = size(&file.file).map_err(|error| file.error(format!("it has no size: {error}")))?;
        Ok(Self { file: file.file, bytes, _lock: Some(file.lock) })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Bytes of a file or a block device, of which `stat` does not tell.
fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

impl Image for RawImage {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        system::read(&self.file, offset, into)
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
        system::write(&self.file, offset, from)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        Ok(fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?)
    }

    /// A file that somebody cut short would be made long again by the next write, and what it had lost would read as
    /// zero.
    fn check(&self) -> io::Result<()> {
        let bytes = size(&self.file)?;
        if bytes < self.bytes {
            let what = format!("it had {} bytes when it was opened, and has {bytes} now", self.bytes);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        Ok(())
    }

    fn as_raw(&self) -> Option<&RawImage> {
        Some(self)
    }
}
