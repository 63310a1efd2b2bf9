//! qcow2 images, through `imago`.
//!
//! What is moved passes through a buffer of the host's own: `imago` works on slices, and no slice is ever made of memory
//! that a guest can write.

mod chain;
mod header;
mod storage;

pub(super) use header::MAGIC;

use super::file::ImageFile;
use super::{Image, ImageError};
use imago::FormatAccess;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use storage::StrictFile;
use vm_memory::VolatileSlice;

/// A qcow2 image with the images that it is based on.
#[derive(Debug)]
pub struct Qcow2Image {
    access: Mutex<FormatAccess<StrictFile>>,
    bytes: u64,
}

impl Qcow2Image {
    /// Opens the image in `file`, and read-only for `user` whatever it is based on.
    pub(super) fn open(file: ImageFile, writable: bool, user: &str) -> Result<Self, ImageError> {
        let access = chain::open(file, writable, user)?;
        let bytes = access.size();
        Ok(Self { access: Mutex::new(access), bytes })
    }

    fn access(&self) -> MutexGuard<'_, FormatAccess<StrictFile>> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of `slices` lies before the end of the disk, and a buffer for it.
    fn buffer(&self, offset: u64, slices: &[VolatileSlice<'_>]) -> Vec<u8> {
        let wanted: usize = slices.iter().map(VolatileSlice::len).sum();
        let there = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        vec![0; wanted.min(there)]
    }
}

impl Image for Qcow2Image {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut buffer = self.buffer(offset, into);
        self.access().read(&mut buffer[..], offset)?;
        let mut rest = &buffer[..];
        for slice in into {
            let (now, later) = rest.split_at(slice.len().min(rest.len()));
            slice.copy_from(now);
            rest = later;
        }
        Ok(buffer.len())
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut buffer = self.buffer(offset, from);
        let mut rest = &mut buffer[..];
        for slice in from {
            let (now, later) = rest.split_at_mut(slice.len().min(rest.len()));
            slice.copy_to(now);
            rest = later;
        }
        self.access().write(&buffer[..], offset)?;
        Ok(buffer.len())
    }

    fn flush(&self) -> io::Result<()> {
        let access = self.access();
        access.flush()?;
        access.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.access().discard_to_zero(offset, length)
    }
}
