//! A file of a qcow2 image, for `imago`.
//!
//! Unlike its own, this one is strict: what lies behind the end of the file is an error and not zeros. A cluster that
//! was put at the end may be shorter in the file than it is, so within the last one there are zeros. Of a file that is
//! written, it keeps the order of tables ([`super::order`]). Of one that is only read, it hides the marks *dirty* and
//! *corrupt*, with which `imago` refuses it: they forbid to write.
#![allow(unsafe_code)] // methods that the trait declares unsafe; nothing unsafe is done in them

use super::header::{Header, MARKS};
use super::order::Ordered;
use crate::block::image::file::ImageFile;
use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// An image's file, open and locked, as the library of qcow2 uses it.
#[derive(Debug)]
pub struct StrictFile {
    file: ImageFile,
    /// Bytes at whose multiples the file may be thought to end.
    cluster_bytes: u64,
    /// Of a qcow2 file that is written.
    order: Option<Ordered>,
    hides_marks: bool,
    helper: CommonStorageHelper,
}

impl StrictFile {
    /// A qcow2 file with that header.
    pub(super) fn new(file: ImageFile, header: &Header, writable: bool) -> Self {
        let order = writable.then(|| Ordered::new(header));
        let hides_marks = !writable && header.version == 3;
        Self { file, cluster_bytes: header.cluster_bytes(), order, hides_marks, helper: Default::default() }
    }

    /// A raw file, to be read.
    pub(super) fn raw(file: ImageFile) -> Self {
        Self { file, cluster_bytes: 512, order: None, hides_marks: false, helper: Default::default() }
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_padded(buffer, offset)?;
        let (place, marks) = MARKS;
        if self.hides_marks
            && let Some(place) = place.checked_sub(offset)
            && let Some(byte) = buffer.get_mut(place as usize)
        {
            *byte &= !marks;
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = || write_at(&self.file.file, bytes, offset);
        match &self.order {
            Some(order) => order.write(&self.file.file, bytes, offset, write),
            None => write(),
        }
    }

    /// Reads, with zeros behind the end.
    fn read_padded(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
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

/// Every write to a qcow2 file.
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    journal::note(bytes, offset);
    file.write_all_at(bytes, offset)
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
            self.write(&buffer, offset)?;
            offset = offset.saturating_add(buffer.len() as u64);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(order) = &self.order {
            order.check()?;
        }
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

/// The writes of a thread, for tests that ask what the file was after each.
#[cfg(test)]
pub mod journal {
    use std::cell::RefCell;

    thread_local! {
        static WRITES: RefCell<Vec<(u64, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(bytes: &[u8], offset: u64) {
        WRITES.with_borrow_mut(|writes| writes.push((offset, bytes.to_vec())));
    }

    /// What was written since the last time.
    pub fn take() -> Vec<(u64, Vec<u8>)> {
        WRITES.take()
    }
}
