//! A disk as a row of bytes, for file systems that know no sectors and do not wait.
//!
//! A window of the disk is kept: reads are served from it, and it moves to what is read. Writes go through it to the
//! disk at once, so nothing is lost with it; durable they are after `flush`.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::block::{BlockDevice, Error, SECTOR};
use crate::sched::executor::block_on;

/// Bytes of the window. At the end of the disk it has fewer.
const WINDOW: usize = 64 << 10;

pub struct Bytes {
    disk: Rc<dyn BlockDevice>,
    window: Vec<u8>,
    /// Where the window starts; a multiple of its size.
    start: u64,
}

impl Bytes {
    pub fn new(disk: Rc<dyn BlockDevice>) -> Self {
        Self { disk, window: Vec::new(), start: 0 }
    }

    /// The size of the disk in bytes.
    pub fn length(&self) -> u64 {
        self.disk.properties().sectors * SECTOR as u64
    }

    /// Fills `into` from the byte `at` on.
    pub fn read(&mut self, mut at: u64, mut into: &mut [u8]) -> Result<(), Error> {
        while !into.is_empty() {
            let found = self.window_at(at)?;
            let count = found.len().min(into.len());
            let (now, later) = into.split_at_mut(count);
            now.copy_from_slice(&found[..count]);
            (at, into) = (at + count as u64, later);
        }
        Ok(())
    }

    /// Writes `from` from the byte `at` on.
    pub fn write(&mut self, mut at: u64, mut from: &[u8]) -> Result<(), Error> {
        while !from.is_empty() {
            let found = self.window_at(at)?;
            let count = found.len().min(from.len());
            let (now, later) = from.split_at(count);
            found[..count].copy_from_slice(now);
            self.write_through(at, count)?;
            (at, from) = (at + count as u64, later);
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub fn flush(&self) -> Result<(), Error> {
        block_on(self.disk.flush())
    }

    /// The rest of the window from the byte `at` on, where the window is moved to.
    fn window_at(&mut self, at: u64) -> Result<&mut [u8], Error> {
        let start = at - at % WINDOW as u64;
        if self.window.is_empty() || start != self.start {
            let length = self.length().checked_sub(start).ok_or(Error::OutOfRange)?.min(WINDOW as u64);
            self.window.resize(length as usize, 0);
            self.start = start;
            let read = block_on(self.disk.read(start / SECTOR as u64, &mut self.window));
            read.inspect_err(|_| self.window.clear())?;
        }
        self.window.get_mut((at - start) as usize..).filter(|rest| !rest.is_empty()).ok_or(Error::OutOfRange)
    }

    /// Writes the sectors of the window that hold these bytes.
    fn write_through(&mut self, at: u64, count: usize) -> Result<(), Error> {
        let unit = SECTOR * self.disk.properties().granularity.max(1) as usize;
        let offset = (at - self.start) as usize;
        let first = offset - offset % unit;
        let end = (offset + count).next_multiple_of(unit).min(self.window.len());
        let sector = (self.start + first as u64) / SECTOR as u64;
        let written = block_on(self.disk.write(sector, &self.window[first..end]));
        // What the disk holds now is not known.
        written.inspect_err(|_| self.window.clear())
    }
}
