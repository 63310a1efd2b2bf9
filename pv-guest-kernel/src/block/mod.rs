//! Disks: what each of this kernel can do, and which there are.
//!
//! A disk is used by sectors of 512 bytes. Every operation is a future: any number of them may be on their way at once,
//! in no order but that a flush makes durable what was written before it began.

#[cfg(guest_image)]
mod memory;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::pin::Pin;

use crate::sync::Local;

#[cfg(guest_image)]
pub use memory::MemoryDisk;

/// Bytes of a sector: the unit of the block protocol (`io/blkif.h`), whatever the medium's own sectors are.
pub const SECTOR: usize = 512;

/// An operation on its way. The buffer is the disk's until it has ended; whoever drops it before gives it up.
pub type Work<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// A disk's size, and what it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    pub sectors: u64,
    /// Sectors that it reads and writes at a time: places and lengths are multiples of this. A power of two.
    pub granularity: u64,
    pub read_only: bool,
    /// It can make durable what was written; a disk that cannot is as durable as it is.
    pub flush: bool,
    /// It can forget sectors.
    pub discard: bool,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It reaches behind the end of the disk, or is no multiple of its granularity.
    OutOfRange,
    /// The disk cannot be written.
    ReadOnly,
    /// The disk cannot do that.
    Unsupported,
    /// The disk's back-end answered with an error or broke the protocol, or no memory could be lent to it.
    Failed,
    /// The disk has no back-end, or lost it before the answer came.
    Gone,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "out of the disk's range",
            Self::ReadOnly => "the disk is read-only",
            Self::Unsupported => "the disk cannot do that",
            Self::Failed => "input/output error",
            Self::Gone => "the disk is gone",
        })
    }
}

impl core::error::Error for Error {}

/// A disk by whatever means: a device of class `vbd`, or this kernel's own memory.
pub trait BlockDevice {
    /// What it is. It may change while the disk is taken away and comes back.
    fn properties(&self) -> Properties;

    /// Fills `into` from `sector` on.
    fn read<'a>(&'a self, sector: u64, into: &'a mut [u8]) -> Work<'a>;

    /// Writes `from` from `sector` on.
    fn write<'a>(&'a self, sector: u64, from: &'a [u8]) -> Work<'a>;

    /// Makes durable what was written.
    fn flush(&self) -> Work<'_>;

    /// Forgets `count` sectors from `sector` on: what they hold then is anything.
    fn discard(&self, sector: u64, count: u64) -> Work<'_>;
}

impl Properties {
    /// Whether `bytes` bytes from `sector` on can be used.
    pub fn check(&self, sector: u64, bytes: usize) -> Result<(), Error> {
        let count = (bytes / SECTOR) as u64;
        let fits = sector.checked_add(count).is_some_and(|end| end <= self.sectors);
        let whole = bytes.is_multiple_of(SECTOR)
            && sector.is_multiple_of(self.granularity)
            && count.is_multiple_of(self.granularity);
        if fits && whole { Ok(()) } else { Err(Error::OutOfRange) }
    }

    /// As [`Self::check`], for writing: a disk that is read-only refuses it.
    pub fn check_write(&self, sector: u64, bytes: usize) -> Result<(), Error> {
        if self.read_only { Err(Error::ReadOnly) } else { self.check(sector, bytes) }
    }
}

static DISKS: Local<BTreeMap<String, Rc<dyn BlockDevice>>> = Local::new(BTreeMap::new());

/// Adds a disk, or puts it in the place of another of its name.
pub fn add(name: &str, disk: Rc<dyn BlockDevice>) {
    DISKS.with(|disks| disks.insert(name.into(), disk));
}

/// Removes a disk. Those who use it keep it.
pub fn remove(name: &str) {
    let removed = DISKS.with(|disks| disks.remove(name));
    drop(removed);
}

/// The disk of that name.
pub fn find(name: &str) -> Option<Rc<dyn BlockDevice>> {
    DISKS.with(|disks| disks.get(name).cloned())
}

/// Every disk that there is.
pub fn all() -> Vec<(String, Rc<dyn BlockDevice>)> {
    DISKS.with(|disks| disks.iter().map(|(name, disk)| (name.clone(), disk.clone())).collect())
}
