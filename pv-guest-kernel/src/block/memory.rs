//! A disk in the kernel's own memory, for tests.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::{BlockDevice, Error, Properties, SECTOR, Work};

pub struct MemoryDisk(RefCell<Vec<u8>>);

impl MemoryDisk {
    /// One full of zeroes.
    pub fn new(sectors: usize) -> Self {
        Self(RefCell::new(alloc::vec![0; sectors * SECTOR]))
    }
}

/// Where `bytes` bytes from `sector` on are; they have been checked.
fn place(sector: u64, bytes: usize) -> core::ops::Range<usize> {
    let start = sector as usize * SECTOR;
    start..start + bytes
}

impl BlockDevice for MemoryDisk {
    fn properties(&self) -> Properties {
        let sectors = (self.0.borrow().len() / SECTOR) as u64;
        Properties { sectors, granularity: 1, read_only: false, flush: true, discard: true }
    }

    fn read<'a>(&'a self, sector: u64, into: &'a mut [u8]) -> Work<'a> {
        Box::pin(async move {
            self.properties().check(sector, into.len())?;
            into.copy_from_slice(&self.0.borrow()[place(sector, into.len())]);
            Ok(())
        })
    }

    fn write<'a>(&'a self, sector: u64, from: &'a [u8]) -> Work<'a> {
        Box::pin(async move {
            self.properties().check_write(sector, from.len())?;
            self.0.borrow_mut()[place(sector, from.len())].copy_from_slice(from);
            Ok(())
        })
    }

    fn flush(&self) -> Work<'_> {
        Box::pin(async { Ok(()) })
    }

    fn discard(&self, sector: u64, count: u64) -> Work<'_> {
        Box::pin(async move {
            let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(SECTOR));
            let bytes = bytes.ok_or(Error::OutOfRange)?;
            self.properties().check_write(sector, bytes)?;
            self.0.borrow_mut()[place(sector, bytes)].fill(0);
            Ok(())
        })
    }
}
