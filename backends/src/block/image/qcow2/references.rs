//! Whether everything that a qcow2 file refers to is counted. What is not would be taken for free, and be overwritten by
//! the next cluster that is needed.
//!
//! Clusters that are counted and not referred to are only lost, which `qemu-img check` calls a leak: that is no reason to
//! refuse an image.

use super::counts::{Layout, OFFSET, OWN};
use super::header::{Header, REPAIR, file_bytes};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The bit of an entry of an L2 table whose cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The most that QEMU makes.
const MAX_SNAPSHOTS: u32 = 65536;

/// The beginning of an entry in the table of snapshots.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Snapshot {
    l1: U64,
    l1_entries: U32,
    id_bytes: U16,
    name_bytes: U16,
    _date: [u8; 20],
    extra_bytes: U32,
}

/// Looks whether everything that is referred to is counted, and what is to be written in place is counted once.
///
/// # Errors
/// What is wrong, as part of a sentence.
pub fn check(file: &File, header: &Header) -> Result<(), String> {
    let mut references = References {
        file,
        layout: Layout::new(header),
        end: file_bytes(file).map_err(unreadable)?,
        blocks: HashMap::new(),
    };
    references.count_all(header).map_err(|defect| match defect {
        Defect::Unreadable(error) => unreadable(error),
        Defect::Wrong(what) => format!("it is damaged: {what}; {REPAIR}"),
    })
}

fn unreadable(error: io::Error) -> String {
    format!("it cannot be read: {error}")
}

enum Defect {
    Unreadable(io::Error),
    Wrong(String),
}

/// The counts of a block's clusters, and how many references to each were met.
struct Block {
    counts: Vec<u8>,
    met: Vec<u16>,
}

struct References<'a> {
    file: &'a File,
    layout: Layout,
    /// Bytes of the file when it was looked at.
    end: u64,
    /// Those of clusters that were met.
    blocks: HashMap<u64, Option<Block>>,
}

/// How an L2 table is referred to.
#[derive(Default)]
struct Table {
    times: u16,
    /// By the disk as it is now, and not by snapshots only.
    active: bool,
}

impl References<'_> {
    fn count_all(&mut self, header: &Header) -> Result<(), Defect> {
        self.range(0, 1, "its header")?;
        self.range(header.l1, header.l1_entries.saturating_mul(8), "its L1 table")?;
        self.range(header.refcount_table, header.refcount_table_bytes, "its refcount table")?;
        for block in 0..self.layout.blocks {
            let offset = self.entry(self.layout.entry(block), "its refcount table")? & OFFSET;
            if offset != 0 {
                self.reference(offset, 1, false, "a block of counts")?;
            }
        }
        let mut tables = BTreeMap::new();
        self.l1_table(header.l1, header.l1_entries, true, &mut tables)?;
        for (l1, entries) in self.snapshots(header)? {
            self.range(l1, entries.saturating_mul(8), "a snapshot's L1 table")?;
            self.l1_table(l1, entries, false, &mut tables)?;
        }
        tables.into_iter().try_for_each(|(offset, table)| self.l2_table(offset, &table))
    }

    /// Notes the L2 tables of an L1 table.
    fn l1_table(
        &mut self,
        offset: u64,
        entries: u64,
        active: bool,
        tables: &mut BTreeMap<u64, Table>,
    ) -> Result<(), Defect> {
        for place in (offset..).step_by(8).take(entries as usize) {
            let entry = self.entry(place, "an L1 table")?;
            if entry & OFFSET != 0 {
                self.reference(entry & OFFSET, 1, active && entry & OWN != 0, "an L2 table")?;
                let table = tables.entry(entry & OFFSET).or_default();
                table.times = table.times.saturating_add(1);
                table.active |= active;
            }
        }
        Ok(())
    }

    /// Counts what an L2 table refers to, as often as it is referred to itself.
    fn l2_table(&mut self, offset: u64, table: &Table) -> Result<(), Defect> {
        const WHAT: &str = "a cluster of data";
        let (cluster_bits, mut entries) = (self.layout.cluster_bits, vec![0; 1 << self.layout.cluster_bits]);
        self.read(&mut entries, offset, "an L2 table")?;
        for entry in entries.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry)) {
            if entry & COMPRESSED != 0 {
                // Below, where; above, how many sectors of 512 bytes follow the first.
                let bits = 70_u32.saturating_sub(cluster_bits);
                let (start, sectors) = (entry & !(u64::MAX << bits), (entry & !(OWN | COMPRESSED)) >> bits);
                let end = (start & !511).saturating_add(sectors.saturating_add(1).saturating_mul(512));
                for cluster in start >> cluster_bits..=end.saturating_sub(1) >> cluster_bits {
                    self.reference(cluster << cluster_bits, table.times, false, WHAT)?;
                }
            } else if entry & OFFSET != 0 {
                self.reference(entry & OFFSET, table.times, table.active && entry & OWN != 0, WHAT)?;
            }
        }
        Ok(())
    }

    /// Where the L1 tables of snapshots are, and how many entries they have.
    fn snapshots(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, Defect> {
        if header.snapshot_count > MAX_SNAPSHOTS {
            return Err(Defect::Wrong(format!("it is said to have {} snapshots", header.snapshot_count)));
        }
        const LIST: &str = "its list of snapshots";
        let (mut tables, mut place) = (Vec::new(), header.snapshots);
        for _ in 0..header.snapshot_count {
            let mut snapshot = Snapshot::new_zeroed();
            self.read(snapshot.as_mut_bytes(), place, LIST)?;
            tables.push((snapshot.l1.get(), snapshot.l1_entries.get().into()));
            let names = u64::from(snapshot.id_bytes.get()).saturating_add(snapshot.name_bytes.get().into());
            let bytes = names.saturating_add(snapshot.extra_bytes.get().into());
            let bytes = bytes.saturating_add(size_of::<Snapshot>() as u64).next_multiple_of(8);
            place = place.saturating_add(bytes);
        }
        self.range(header.snapshots, place.saturating_sub(header.snapshots), LIST)?;
        Ok(tables)
    }

    /// Counts the clusters of a range of bytes.
    fn range(&mut self, offset: u64, bytes: u64, what: &str) -> Result<(), Defect> {
        let bits = self.layout.cluster_bits;
        let end = offset.saturating_add(bytes).min(self.end).div_ceil(1 << bits);
        (offset >> bits..end).try_for_each(|cluster| self.reference(cluster << bits, 1, false, what))
    }

    /// Counts a cluster, which is referred to so many times.
    fn reference(&mut self, offset: u64, times: u16, is_own: bool, what: &str) -> Result<(), Defect> {
        let wrong = |why: String| Err(Defect::Wrong(format!("{what}, at {offset}, {why}")));
        let cluster_bytes = 1 << self.layout.cluster_bits;
        if !offset.is_multiple_of(cluster_bytes) {
            return wrong("is not where a cluster begins".into());
        }
        if offset >= self.end {
            return wrong(format!("is behind its end: it has only {} bytes", self.end));
        }
        let (block, index) = self.layout.position(offset >> self.layout.cluster_bits);
        if !self.blocks.contains_key(&block) {
            let read = self.read_block(block)?;
            self.blocks.insert(block, read);
        }
        let Some(Some(block)) = self.blocks.get_mut(&block) else {
            return wrong("is in use, and not counted".into());
        };
        let count = self.layout.count(&block.counts, index);
        let Some(met) = block.met.get_mut(index as usize) else { return Ok(()) };
        *met = met.saturating_add(times);
        match u64::from(*met) {
            _ if count == 0 => wrong("is in use, and counted as free".into()),
            met if met > count => wrong(format!("is in use {met} times, and counted {count} times")),
            _ if is_own && count != 1 => {
                wrong(format!("is to be written in place, and counted {count} times"))
            }
            _ => Ok(()),
        }
    }

    /// The block of counts of that number; none where there is none.
    fn read_block(&self, block: u64) -> Result<Option<Block>, Defect> {
        if block >= self.layout.blocks {
            return Ok(None);
        }
        let offset = self.entry(self.layout.entry(block), "its refcount table")? & OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        let mut counts = vec![0; 1 << self.layout.cluster_bits];
        self.read(&mut counts, offset, "a block of counts")?;
        Ok(Some(Block { counts, met: vec![0; self.layout.counts_of_a_block()] }))
    }

    fn entry(&self, place: u64, what: &str) -> Result<u64, Defect> {
        let mut bytes = [0; 8];
        self.read(&mut bytes, place, what)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn read(&self, into: &mut [u8], offset: u64, what: &str) -> Result<(), Defect> {
        self.file.read_exact_at(into, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Defect::Wrong(format!("{what}, at {offset}, is cut off")),
            _ => Defect::Unreadable(error),
        })
    }
}
