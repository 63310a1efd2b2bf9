//! Commands about disks.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;

use sha2::{Digest, Sha256};

use crate::block::{self, BlockDevice, SECTOR};
use crate::sched::future::{Either, all, race, yield_now};
use crate::{file_system, time, xenbus};

/// Bytes that are moved at a time, unless told otherwise.
const CHUNK: usize = 128 << 10;

/// How `dd` goes through a disk.
#[derive(Clone, Copy)]
pub struct Stride {
    /// Bytes that it moves at a time.
    chunk: usize,
    /// How many of these are on their way together.
    depth: usize,
}

impl Default for Stride {
    fn default() -> Self {
        Self { chunk: CHUNK, depth: 4 }
    }
}

impl Stride {
    /// Chunks of so many KiB, at most 1024, and as many of these on their way as there may be.
    pub fn new(kibibytes: usize, depth: usize) -> Result<Self, String> {
        match (kibibytes, depth) {
            (1..=1024, 1..=64) => Ok(Self { chunk: kibibytes << 10, depth }),
            _ => Err("chunks have 1 to 1024 KiB, and 1 to 64 of them are on their way".into()),
        }
    }
}

/// Prints each disk: its name, its size in KiB, and what it can do.
pub async fn disks() {
    xenbus::settled().await;
    for (name, disk) in block::all() {
        let it = disk.properties();
        let flags = [(it.read_only, "read-only"), (it.flush, "flush"), (it.discard, "discard")];
        let flags = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name);
        let flags = flags.collect::<alloc::vec::Vec<_>>().join(", ");
        println!("{name:8} {:>10} KiB  {flags}", it.sectors / 2);
    }
}

/// A disk by its name, once those of the start are there.
pub async fn disk(name: &str) -> Result<Rc<dyn BlockDevice>, String> {
    if block::find(name).is_none() {
        xenbus::settled().await;
    }
    block::find(name).ok_or_else(|| format!("no disk {name}; see disks"))
}

/// The same, for who writes to it past its file system: so it must not be mounted.
pub async fn unmounted_disk(name: &str) -> Result<Rc<dyn BlockDevice>, String> {
    file_system::refuse_mounted(name)?;
    disk(name).await
}

/// Where on a disk bytes are, in sectors.
struct Range {
    first: u64,
    count: u64,
}

/// The whole disk, or so many MiB of it from its start.
fn range(disk: &dyn BlockDevice, mebibytes: Option<u64>) -> Result<Range, String> {
    let sectors = disk.properties().sectors;
    let count = mebibytes.map_or(Some(sectors), |size| size.checked_mul((1 << 20) / SECTOR as u64));
    match count {
        Some(count) if count <= sectors => Ok(Range { first: 0, count }),
        _ => Err(format!("the disk has {} MiB", sectors / 2048)),
    }
}

/// Calls `f` for one chunk after the other, several at a time: with its first sector and its sectors.
async fn in_chunks<F: Future<Output = Result<(), block::Error>>>(
    range: Range,
    stride: Stride,
    f: impl Fn(u64, u64) -> F,
) -> Result<(), String> {
    let (next, end) = (Cell::new(range.first), range.first + range.count);
    let worker = || async {
        while next.get() < end {
            let sector = next.get();
            let count = (end - sector).min((stride.chunk / SECTOR) as u64);
            next.set(sector + count);
            f(sector, count).await.map_err(|error| format!("sector {sector}: {error}"))?;
        }
        Ok(())
    };
    all((0..stride.depth).map(|_| worker())).await.into_iter().collect()
}

/// Reads a disk, or writes a pattern to it and makes that durable, and tells how fast.
pub async fn dd(action: &str, name: &str, mebibytes: Option<u64>, stride: Stride) -> Result<(), String> {
    let disk = match action {
        "read" => disk(name).await?,
        "write" => unmounted_disk(name).await?,
        _ => return Err(format!("{action} is neither read nor write")),
    };
    let range = range(&*disk, mebibytes)?;
    let bytes = range.count * SECTOR as u64;
    let start = time::now();
    if action == "read" {
        in_chunks(range, stride, |sector, count| {
            let disk = &disk;
            async move { disk.read(sector, &mut alloc::vec![0; count as usize * SECTOR]).await }
        })
        .await?;
    } else {
        in_chunks(range, stride, |sector, count| {
            let disk = &disk;
            async move { disk.write(sector, &pattern(0, sector, count as usize)).await }
        })
        .await?;
        disk.flush().await.map_err(|error| format!("flush: {error}"))?;
    }
    let microseconds = ((time::now() - start) / time::MICROSECOND).max(1);
    let chunks = bytes.div_ceil(stride.chunk as u64).max(1);
    println!(
        "{bytes} bytes in {} ms, {} MiB/s, {} us a chunk",
        microseconds / 1000,
        (bytes * 1000 / microseconds * 1000) >> 20,
        microseconds / chunks,
    );
    Ok(())
}

/// Sectors that each begin with a round and their own number, and differ all over.
fn pattern(round: u32, first: u64, count: usize) -> alloc::vec::Vec<u8> {
    let base = (u64::from(round) << 32).wrapping_add(first);
    let words = (0..count * SECTOR / 8).map(|index| {
        let (sector, word) = ((index * 8 / SECTOR) as u64, index as u64 % (SECTOR as u64 / 8));
        base.wrapping_add(sector).wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    });
    words.flat_map(u64::to_le_bytes).collect()
}

/// Sectors that a round writes.
const ROUND: u64 = 512;

/// Writes rounds without end, two at a time, and tells of each when its flush was acknowledged: what must be on the disk
/// from then on, whatever becomes of this domain. Round `n` is written to place `n` of the disk, counted on from its
/// start when its end is reached; the number of places is even, so that the two never write the same one.
pub async fn rounds(name: &str, first: u32) -> Result<(), String> {
    let disk = unmounted_disk(name).await?;
    let places = (disk.properties().sectors / ROUND) & !1;
    if places == 0 {
        return Err(format!("a disk of fewer than {} sectors has no two places for rounds", 2 * ROUND));
    }
    let every_second = |first: u32| {
        let disk = &disk;
        async move {
            for round in (first..).step_by(2) {
                let range = Range { first: u64::from(round) % places * ROUND, count: ROUND };
                let write = |sector, count: u64| async move {
                    disk.write(sector, &pattern(round, sector, count as usize)).await
                };
                in_chunks(range, Stride { chunk: 16 << 10, depth: 4 }, write).await?;
                disk.flush().await.map_err(|error| format!("flush: {error}"))?;
                println!("durable {round}");
            }
            Ok(())
        }
    };
    match race(every_second(first), every_second(first.saturating_add(1))).await {
        Either::First(ended) | Either::Second(ended) => ended,
    }
}

/// The hash of a file, or of a disk up to so many MiB.
pub async fn sha256(what: &str, mebibytes: Option<u64>) -> Result<(), String> {
    let mut hash = Sha256::new();
    if what.starts_with('/') {
        let (mounted, path) = file_system::find(what)?;
        let mut file = mounted.open(&path)?;
        let mut buffer = alloc::vec![0; CHUNK];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
            yield_now().await;
        }
    } else {
        let disk = disk(what).await?;
        let Range { first, count } = range(&*disk, mebibytes)?;
        let mut buffer = alloc::vec![0; CHUNK];
        for sector in (first..first + count).step_by(CHUNK / SECTOR) {
            let sectors = (first + count - sector).min((CHUNK / SECTOR) as u64) as usize;
            let part = &mut buffer[..sectors * SECTOR];
            disk.read(sector, part).await.map_err(|error| format!("sector {sector}: {error}"))?;
            hash.update(part);
        }
    }
    hash.finalize().iter().for_each(|byte| print!("{byte:02x}"));
    println!("  {what}");
    Ok(())
}
