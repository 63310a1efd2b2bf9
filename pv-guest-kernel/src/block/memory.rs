//! A disk in the kernel's own memory, for tests.

use alloc::boxed::Box;
use alloc::vec::Vec;

use pv_abi::PAGE_SIZE;

use super::{BlockDevice, Error, Properties, SECTOR, Work};
use crate::memory::Page;

pub struct MemoryDisk(Vec<Page>);

impl MemoryDisk {
    /// One full of zeroes, of so many pages. None without the memory for it.
    pub fn new(pages: usize) -> Option<Self> {
        (0..pages).map(|_| Page::new()).collect::<Option<_>>().map(Self)
    }

    /// The sectors from `first` on: each one's page, and where it is there.
    fn sectors(&self, first: u64) -> impl Iterator<Item = (&Page, usize)> {
        const SECTORS: usize = PAGE_SIZE / SECTOR;
        (first as usize..)
            .map_while(|sector| Some((self.0.get(sector / SECTORS)?, sector % SECTORS * SECTOR)))
    }
}

impl BlockDevice for MemoryDisk {
    fn properties(&self) -> Properties {
        let sectors = (self.0.len() * PAGE_SIZE / SECTOR) as u64;
        Properties { sectors, granularity: 1, read_only: false, flush: true, discard: true }
    }

    fn read<'a>(&'a self, sector: u64, into: &'a mut [u8]) -> Work<'a> {
        Box::pin(async move {
            self.properties().check(sector, into.len())?;
            let sectors = self.sectors(sector).zip(into.chunks_mut(SECTOR));
            sectors.for_each(|((page, offset), part)| page.bytes().read(offset, part));
            Ok(())
        })
    }

    fn write<'a>(&'a self, sector: u64, from: &'a [u8]) -> Work<'a> {
        Box::pin(async move {
            self.properties().check_write(sector, from.len())?;
            let sectors = self.sectors(sector).zip(from.chunks(SECTOR));
            sectors.for_each(|((page, offset), part)| page.bytes().write(offset, part));
            Ok(())
        })
    }

    fn flush(&self) -> Work<'_> {
        Box::pin(async { Ok(()) })
    }

    fn discard(&self, sector: u64, count: u64) -> Work<'_> {
        Box::pin(async move {
            let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(SECTOR));
            self.properties().check_write(sector, bytes.ok_or(Error::OutOfRange)?)?;
            let sectors = self.sectors(sector).take(count as usize);
            sectors.for_each(|(page, offset)| page.bytes().write(offset, &[0; SECTOR]));
            Ok(())
        })
    }
}
