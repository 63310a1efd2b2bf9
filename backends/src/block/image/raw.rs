//! A file or block device that holds the disk's bytes as they are.

use super::file::ImageFile;
use super::lock::Lock;
use super::{Image, ImageError, system};
use pv_abi::io::block::SECTOR_BYTES;
use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl, fdatasync};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use vm_memory::VolatileSlice;

/// An open file or block device.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    bytes: u64,
    /// Past the host's page cache.
    direct: bool,
    _lock: Option<Lock>,
}

impl RawImage {
    /// The disk in `file`, as large as that is now.
    ///
    /// # Errors
    /// Where its size cannot be learned.
    pub fn new(file: File) -> io::Result<Self> {
        let bytes = size(&file)?;
        Ok(Self { file, bytes, direct: false, _lock: None })
    }

    /// The disk in a file that was opened as an image.
    pub(super) fn locked(file: ImageFile) -> Result<Self, ImageError> {
        let bytes = size(&file.file).map_err(|error| file.error(format!("it has no size: {error}")))?;
        Ok(Self { file: file.file, bytes, direct: false, _lock: Some(file.lock) })
    }

    /// The same, past the host's page cache from now on; or why that cannot be.
    pub(super) fn direct(self) -> Result<Self, String> {
        let set = fcntl_getfl(&self.file).and_then(|flags| fcntl_setfl(&self.file, flags | OFlags::DIRECT));
        set.map_err(|error| {
            format!("its file system has no direct access ({error}): use it without direct")
        })?;
        self.try_sector().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                "its file system has direct access to larger blocks only than a disk's sectors of 512 bytes: use it \
                 without direct"
                    .to_owned()
            }
            _ => format!("it cannot be read directly: {error}"),
        })?;
        Ok(Self { direct: true, ..self })
    }

    /// Reads a sector that is aligned to nothing more than one, neither in the file nor in memory.
    fn try_sector(&self) -> io::Result<()> {
        const SECTOR: usize = SECTOR_BYTES as usize;
        let mut memory = vec![0; 4 * SECTOR];
        // Where the address is an odd number of sectors.
        let misaligned = (memory.as_ptr() as usize) % (2 * SECTOR);
        let start = (3 * SECTOR).saturating_sub(misaligned) % (2 * SECTOR);
        let sector = memory.get_mut(start..start.saturating_add(SECTOR)).unwrap_or_default();
        let offset = if self.bytes >= 2 * SECTOR_BYTES { SECTOR_BYTES } else { 0 };
        self.file.read_exact_at(sector, offset)
    }

    /// Whether its bytes go past the host's page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The file that the image is.
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
