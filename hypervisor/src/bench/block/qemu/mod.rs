//! The same through QEMU's virtio-blk, where QEMU is installed: the least guest that can make the same loads, which
//! polls as ours does, next to the host doing the same to the same file.
//!
//! - [`code`], [`image`]: that guest;
//! - [`way`]: how QEMU is told to do it;
//! - [`process`]: one run of QEMU. Each sample has one of its own, so nothing of it runs while the floor does.

mod code;
mod image;
mod process;
mod way;

use super::access::{Action, Load};
use super::file::{self, Buffer};
use super::{DIRECT_READS, FLUSHES, LARGE_WRITES, LONE_READS, RANDOM_READS, SMALL_WRITES, each, per_second};
use crate::bench::guest::nanoseconds;
use crate::bench::sampling::{Sample, pairs};
use crate::bench::{BenchError, PER_SECOND, Row, Sink};
use image::Outcome;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use way::Way;

const DIRECT: &str = "block/qemu-direct-qd1";
const LATENCY: &str = "block/qemu-latency-qd1";
const ROWS: [(&str, Load); 6] = [
    ("block/qemu-randread-4k-qd32", RANDOM_READS),
    ("block/qemu-write-4k", SMALL_WRITES),
    ("block/qemu-write-64k", LARGE_WRITES),
    ("block/qemu-fdatasync", FLUSHES),
    (DIRECT, DIRECT_READS),
    (LATENCY, LONE_READS),
];
const _: () = assert!(all_fit(&ROWS));
/// Samples by which ways are compared.
const TRIALS: usize = 2;

const fn all_fit(rows: &[(&str, Load)]) -> bool {
    match rows {
        [] => true,
        [(_, load), rest @ ..] => image::fits(*load) && all_fit(rest),
    }
}

/// Measures all rows; the TSC's rate is that of this host. What QEMU cannot do is skipped.
pub fn run(count: usize, tsc_khz: u32, sink: Sink<'_>) -> Result<(), BenchError> {
    let mut version = process::version();
    for (name, load) in ROWS {
        let row = version.clone().map_err(BenchError::Qemu).and_then(|version| {
            let (row, way) = Bench::new(load, name == DIRECT, tsc_khz)?.row(name, count)?;
            Ok(row.noting(format!("QEMU {version}, {way}")))
        });
        match row {
            Err(BenchError::Qemu(reason)) => {
                // What cannot read through the page cache does nothing else either, and may take long to show it.
                if name != DIRECT {
                    version = Err(reason.clone());
                }
                sink(Row::skipped(name, reason));
            }
            row => sink(row?),
        }
    }
    Ok(())
}

/// A load, and a file for it.
struct Bench {
    load: Load,
    direct: bool,
    disk: File,
    /// What the host itself reads and writes: the same file.
    own: File,
    tsc_khz: u32,
    /// The last sample's number.
    seed: Cell<u32>,
}

impl Bench {
    fn new(load: Load, direct: bool, tsc_khz: u32) -> Result<Self, BenchError> {
        let disk = file::make()?;
        let own = if direct { past_the_cache(&disk) } else { disk.try_clone() };
        let failed = |error| BenchError::Qemu(format!("the host itself cannot open the disk: {error}"));
        Ok(Self { load, direct, own: own.map_err(failed)?, disk, tsc_khz, seed: Cell::new(0) })
    }

    fn row(&self, name: &str, count: usize) -> Result<(Row, Way), BenchError> {
        let (load, way) = (self.load, self.fastest()?);
        let mut buffer = Buffer::new(load.chunk);
        let times = pairs(
            count,
            || self.guest(way),
            || file::run(&self.own, load, self.next_seed(), buffer.bytes()),
        )?;
        let row = match name {
            LATENCY => Row::paired(name, &each(times, |nanoseconds| nanoseconds / load.count as f64)),
            _ => Row::paired(name, &each(times, |nanoseconds| per_second(load, nanoseconds)))
                .in_unit(PER_SECOND),
        };
        Ok((row, way))
    }

    /// Of the ways that QEMU has here, the one that takes the least time in a few samples. Which it is depends on the
    /// host and on the load.
    fn fastest(&self) -> Result<Way, BenchError> {
        let mut best: Result<(f64, Way), BenchError> = Err(BenchError::Qemu("there is no way".into()));
        for way in Way::all(self.direct) {
            let trials: Result<Vec<f64>, _> = (0..TRIALS).map(|_| self.guest(way)).collect();
            match (trials.map(|times| times.into_iter().fold(f64::INFINITY, f64::min)), &best) {
                (Ok(time), Ok((least, _))) if time >= *least => {}
                (Ok(time), _) => best = Ok((time, way)),
                (Err(BenchError::Qemu(_)), Ok(_)) => {}
                (Err(error), _) => best = Err(error),
            }
        }
        best.map(|(_, way)| way)
    }

    fn next_seed(&self) -> u32 {
        self.seed.set(self.seed.get() + 1);
        self.seed.get()
    }

    /// Nanoseconds of the load in a guest; what it wrote is looked at.
    fn guest(&self, way: Way) -> Sample {
        let (before, seed) = (self.next_seed(), self.next_seed());
        let guest = image::image(self.load, before, seed);
        let failed = |what: String| BenchError::Qemu(format!("{what} ({way})"));
        let ticks = match process::run(way, &guest, &self.disk).map_err(failed)? {
            Outcome::Done(ticks) => ticks,
            outcome => return Err(failed(outcome.to_string())),
        };
        if self.load.action != Action::Read {
            file::check(&self.disk, self.load, seed)?;
        }
        Ok(nanoseconds(ticks, self.tsc_khz))
    }
}

fn past_the_cache(disk: &File) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file::path(disk))
}
