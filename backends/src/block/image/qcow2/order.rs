//! The order in which tables reach the file.
//!
//! Whenever the process ends, KILL included, every cluster that the file refers to must be counted there: otherwise the
//! next run takes it for free, and uses it for something else. `imago` keeps L2 tables and counts in memory, and writes
//! them in the right order. But new tables it links at once, while their counts are still in memory only. So before an
//! entry of the L1 table or of the refcount table reaches the file, the count of what it refers to is raised in the file;
//! `imago` later writes the whole block of counts, with the same count in it.
//!
//! The other half stands in [`super::Qcow2Image`]: what was freed is forgotten in the file before a table is made, for
//! that could take its place.

use super::counts::{Layout, OFFSET, read_u64};
use super::header::{self, Header};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps the order for one file.
#[derive(Debug)]
pub struct Ordered {
    /// Where the L1 table is. It does not move: it is as large as it must be.
    l1: Range<u64>,
    layout: Mutex<Layout>,
    /// A table could not be written: what `imago` has of it in memory is no longer what the file has.
    failed: AtomicBool,
}

impl Ordered {
    pub fn new(header: &Header) -> Self {
        let l1 = header.l1..header.l1.saturating_add(header.l1_entries.saturating_mul(8));
        Self { l1, layout: Mutex::new(Layout::new(header)), failed: AtomicBool::new(false) }
    }

    fn layout(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what was written can still be made durable.
    ///
    /// # Errors
    /// Where a table could not be written before.
    pub fn check(&self) -> io::Result<()> {
        match self.failed.load(Ordering::SeqCst) {
            true => Err(io::Error::other("one of its tables could not be written before")),
            false => Ok(()),
        }
    }

    /// Has `write` write bytes at an offset of the file, once what they refer to is counted.
    ///
    /// # Errors
    /// The host's.
    pub fn write(
        &self,
        file: &File,
        bytes: &[u8],
        offset: u64,
        write: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.check()?;
        let written = offset..offset.saturating_add(bytes.len() as u64);
        let layout = *self.layout();
        let table = layout.table..layout.entry(layout.blocks);
        let to_table = overlap(&written, &table);
        let to_header = written.start < header::BYTES;
        if !to_table && !to_header && !overlap(&written, &self.l1) {
            return write();
        }
        let result = self.count(file, bytes, &written, &layout, &table).and_then(|()| write());
        if to_header && result.is_ok() {
            // The refcount table may be another one now.
            *self.layout() = Layout::new(&header::check(file, false).map_err(io::Error::other)?);
        }
        if result.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        result
    }

    /// Counts what new entries of the tables refer to.
    fn count(
        &self,
        file: &File,
        bytes: &[u8],
        written: &Range<u64>,
        layout: &Layout,
        table: &Range<u64>,
    ) -> io::Result<()> {
        for (entries, are_blocks) in [(table, true), (&self.l1, false)] {
            let first = written.start.max(entries.start).next_multiple_of(8);
            for place in (first..written.end.min(entries.end)).step_by(8) {
                let rest = bytes.get(place.saturating_sub(written.start) as usize..).unwrap_or_default();
                let Some(entry) = rest.first_chunk() else { break };
                let new = u64::from_be_bytes(*entry) & OFFSET;
                if new == 0 || new == read_u64(file, place)? & OFFSET {
                    continue;
                }
                let cluster = new >> layout.cluster_bits;
                // A block may count itself.
                if !are_blocks || layout.entry(layout.position(cluster).0) != place {
                    layout.raise(file, cluster)?;
                }
            }
        }
        Ok(())
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
