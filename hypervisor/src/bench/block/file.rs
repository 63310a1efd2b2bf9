//! The file in which the disk is, and what the host does to it: the floor of every row.
//!
//! The file has no name, so nothing is left of it however this ends.

use super::access::{Action, DISK_BYTES, Load, stamp, wrong};
use crate::bench::BenchError;
use pv_abi::PAGE_SIZE;
use pv_abi::io::block::SECTOR_BYTES;
use rustix::fs::fdatasync;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

/// Bytes that are written at a time, before anything is measured.
const STEP: usize = 1 << 20;

/// Makes the file, in the directory for temporary ones: every sector begins with its mark of generation 0.
pub fn make() -> Result<File, BenchError> {
    let directory = std::env::temp_dir();
    let failed = |error: io::Error| {
        let what = format!("a file of {} MiB in {}", DISK_BYTES >> 20, directory.display());
        let hint = "; TMPDIR names another directory";
        BenchError::File(what, io::Error::new(error.kind(), format!("{error}{hint}")))
    };
    let file = tempfile::tempfile_in(&directory).map_err(failed)?;
    let mut bytes = vec![0xa5; STEP];
    for offset in (0..DISK_BYTES).step_by(STEP) {
        stamp(offset / SECTOR_BYTES, 0, &mut bytes);
        file.write_all_at(&bytes, offset).map_err(failed)?;
    }
    // What is measured is not to wait for this.
    file.sync_data().map_err(failed)?;
    Ok(file)
}

/// A name by which the file can be opened again, as long as it is open.
pub fn path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Memory for a chunk, aligned as reading past the cache needs it.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// For a chunk of so many bytes.
    pub fn new(length: u64) -> Self {
        let length = length as usize;
        let memory = vec![0xff; length + PAGE_SIZE];
        let start = memory.as_ptr().align_offset(PAGE_SIZE);
        Self { memory, start, length }
    }

    /// The bytes of the buffer: as many as a chunk has, from the start of a page on.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }
}

/// Has the host do a load, one chunk after the other; the nanoseconds. `buffer` is of a chunk's length.
pub fn run(file: &File, load: Load, seed: u32, buffer: &mut [u8]) -> Result<f64, BenchError> {
    let failed = |error| BenchError::File(format!("the host's own {}", load.action.name()), error);
    let start = Instant::now();
    for sector in load.places(seed) {
        one(file, load.action, sector, seed, buffer).map_err(failed)?;
    }
    Ok(start.elapsed().as_nanos() as f64)
}

fn one(file: &File, action: Action, sector: u64, seed: u32, buffer: &mut [u8]) -> io::Result<()> {
    let offset = sector * SECTOR_BYTES;
    if action == Action::Read {
        file.read_exact_at(buffer, offset)?;
        return match wrong(sector, 0, buffer) {
            None => Ok(()),
            Some(sector) => Err(io::Error::other(format!("sector {sector} is not as it was written"))),
        };
    }
    stamp(sector, seed, buffer);
    file.write_all_at(buffer, offset)?;
    match action {
        Action::Flush => Ok(fdatasync(file)?),
        _ => Ok(()),
    }
}

/// Looks whether what the guest wrote is there.
pub fn check(file: &File, load: Load, seed: u32) -> Result<(), BenchError> {
    let mut buffer = Buffer::new(load.chunk);
    let buffer = buffer.bytes();
    for place in load.places(seed) {
        let read = file.read_exact_at(buffer, place * SECTOR_BYTES);
        read.map_err(|error| BenchError::File("what the guest wrote".into(), error))?;
        if let Some(sector) = wrong(place, seed, buffer) {
            return Err(BenchError::Guest(format!("says that it has written sector {sector}, and has not")));
        }
    }
    Ok(())
}
