//! A file of a qcow2 image, for `imago`.
//!
//! Unlike its own, this one is strict: what lies behind the end of the file is an error and not zeros. A cluster that
//! was put at the end may be shorter in the file than it is, so within the last one there are zeros.
#![allow(unsafe_code)] // methods that the trait declares unsafe; nothing unsafe is done in them

use crate::block::image::file::ImageFile;
use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use std::fmt;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// An open, locked file.
#[derive(Debug)]
pub struct StrictFile {
    file: ImageFile,
    /// Bytes at whose multiples the file may be thought to end.
    cluster_bytes: u64,
    helper: CommonStorageHelper,
}

impl StrictFile {
    pub(super) fn new(file: ImageFile, cluster_bytes: u64) -> Self {
        Self { file, cluster_bytes, helper: CommonStorageHelper::default() }
    }

    /// Reads, with zeros behind the end.
    fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.file.file.read_at(buffer, offset) {
                Ok(0) => {
                    let end = self.size()?.next_multiple_of(self.cluster_bytes);
                    if offset.checked_add(buffer.len() as u64).is_none_or(|last| last > end) {
                        let what = format!("{} is cut off: {offset} is behind its end", self);
                        return Err(io::Error::new(ErrorKind::UnexpectedEof, what));
                    }
                    buffer.fill(0);
                    return Ok(());
                }
                Ok(length) => {
                    buffer = buffer.get_mut(length..).unwrap_or_default();
                    offset = offset.saturating_add(length as u64);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl fmt::Display for StrictFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.path.display().fmt(f)
    }
}

impl Storage for StrictFile {
    fn size(&self) -> io::Result<u64> {
        (&self.file.file).seek(SeekFrom::End(0))
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        for mut buffer in bufv.into_inner() {
            self.read(&mut buffer, offset)?;
            offset = offset.saturating_add(buffer.len() as u64);
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        for buffer in bufv.into_inner() {
            self.file.file.write_all_at(&buffer, offset)?;
            offset = offset.saturating_add(buffer.len() as u64);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.file.sync_data()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, new_size: u64, _: PreallocateMode) -> io::Result<()> {
        self.file.file.set_len(new_size)
    }
}
