//! The suite `block`: what a disk costs that goes through the bundled kernel's front-end, the ring and the back-end,
//! next to the host doing the same to the same file; and QEMU's virtio-blk, next to the host as well.

mod access;
mod file;
mod guest;
mod qemu;

use super::sampling::{Sample, pairs, samples};
use super::{Aim, BenchError, EACH, PER_SECOND, Row, Settings, Sink};
use access::{Action, Load};
use backends::block::image::{Format, open, open_direct};
use file::Buffer;
use guest::{Guest, Measured};
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::fs::File;
use std::io;

const KIB: u64 = 1 << 10;
const SECOND: f64 = 1e9;

const fn reads(depth: u32, count: u64) -> Load {
    Load { action: Action::Read, chunk: 4 * KIB, depth, count }
}

const fn writes(kibibytes: u64, depth: u32, count: u64) -> Load {
    Load { action: Action::Write, chunk: kibibytes * KIB, depth, count }
}

const RANDOM_READS: Load = reads(32, 8192);
const SMALL_WRITES: Load = writes(4, 32, 8192);
const LARGE_WRITES: Load = writes(64, 8, 1024);
const FLUSHES: Load = Load { action: Action::Flush, chunk: 4 * KIB, depth: 1, count: 8 };
const DIRECT_READS: Load = reads(1, 64);
const LONE_READS: Load = reads(1, 4096);
/// The depth at which notifications are counted.
const COUNTED: Load = reads(8, 4096);

/// Measures the rows of the suite `block` and hands each to `sink` when it is finished.
pub fn run(settings: &Settings<'_>, sink: Sink<'_>) -> Result<(), BenchError> {
    let count = settings.pairs;
    let bench = Bench::new(Through::Cache)?;
    let rates = [
        ("randread-4k-qd32", RANDOM_READS, Some(0.85)),
        ("write-4k", SMALL_WRITES, None),
        ("write-64k", LARGE_WRITES, None),
        ("fdatasync", FLUSHES, None),
    ];
    for (name, load, least) in rates {
        sink(bench.rate(name, load, least, count)?);
    }
    sink(direct(count)?);
    sink(bench.latency(count)?);
    sink(bench.per_cpu_second(count)?);
    sink(bench.doorbells(count)?);
    let tsc_khz = bench.guest.tsc_khz();
    drop(bench);
    qemu::run(count, tsc_khz, sink)
}

/// The row of reads past the host's page cache, on either side. Not every file system has them.
fn direct(count: usize) -> Result<Row, BenchError> {
    const NAME: &str = "direct-qd1";
    match Bench::new(Through::Device) {
        Ok(bench) => bench.rate(NAME, DIRECT_READS, Some(0.95), count),
        Err(BenchError::Disk(error)) => Ok(Row::skipped(format!("block/{NAME}"), error.reason)),
        Err(error) => Err(error),
    }
}

/// By which way the host reaches the bytes of the file, for itself and for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    Cache,
    /// Past the host's page cache.
    Device,
}

/// A file, and a guest whose disk it is.
struct Bench {
    guest: Guest,
    /// What the host itself reads and writes.
    file: File,
    /// The last sample's number.
    seed: Cell<u32>,
}

impl Bench {
    fn new(through: Through) -> Result<Self, BenchError> {
        let made = file::make()?;
        let failed = |error| BenchError::File("the disk".into(), error);
        let (image, file) = match through {
            Through::Cache => (open(&file::path(&made), Some(Format::Raw), true, "the bench")?, made),
            Through::Device => {
                let image = open_direct(&file::path(&made), Some(Format::Raw), true, "the bench")?;
                let file = image.as_raw().and_then(|raw| raw.file().try_clone().ok());
                (image, file.ok_or_else(|| failed(io::Error::other("it cannot be opened twice")))?)
            }
        };
        let guest = Guest::new(image)?;
        Ok(Self { guest, file, seed: Cell::new(0) })
    }

    fn next_seed(&self) -> u32 {
        self.seed.set(self.seed.get() + 1);
        self.seed.get()
    }

    /// Has the guest do a load, and looks at what it wrote.
    fn guest(&self, load: Load) -> Result<Measured, BenchError> {
        let seed = self.next_seed();
        let measured = self.guest.run(load, seed)?;
        if load.action != Action::Read {
            file::check(&self.file, load, seed)?;
        }
        Ok(measured)
    }

    /// Pairs of nanoseconds for a load.
    fn times(&self, load: Load, count: usize) -> Result<Vec<(f64, f64)>, BenchError> {
        let mut buffer = Buffer::new(load.chunk);
        pairs(
            count,
            || Ok(self.guest(load)?.nanoseconds),
            || file::run(&self.file, load, self.next_seed(), buffer.bytes()),
        )
    }

    /// How many chunks go through in a second.
    fn rate(&self, name: &str, load: Load, least: Option<f64>, count: usize) -> Result<Row, BenchError> {
        let pairs = each(self.times(load, count)?, |nanoseconds| per_second(load, nanoseconds));
        let row = Row::paired(format!("block/{name}"), &pairs).in_unit(PER_SECOND);
        Ok(least.map_or(row.clone(), |least| row.aiming(Aim::AtLeast(least))))
    }

    /// How long one read takes of a guest that makes one after the other, and polls as its back-end does.
    fn latency(&self, count: usize) -> Result<Row, BenchError> {
        let load = LONE_READS;
        let pairs = each(self.times(load, count)?, |nanoseconds| nanoseconds / load.count as f64);
        Ok(Row::paired("block/latency-qd1", &pairs).aiming(Aim::Adds(1500.0)))
    }

    /// How many reads a second of processor time makes, of all threads of this process.
    fn per_cpu_second(&self, count: usize) -> Result<Row, BenchError> {
        let load = RANDOM_READS;
        let rate = |spent| per_second(load, spent);
        let mut buffer = Buffer::new(load.chunk);
        let mut host = || file::run(&self.file, load, self.next_seed(), buffer.bytes()).map(drop);
        let pairs = pairs(
            count,
            || processor_time(|| self.guest(load).map(drop)).map(rate),
            || processor_time(&mut host).map(rate),
        )?;
        Ok(Row::paired("block/per-cpu-second", &pairs).in_unit(PER_SECOND).aiming(Aim::AtLeast(0.30)))
    }

    /// How many notifications, both directions together, a request takes.
    fn doorbells(&self, count: usize) -> Result<Row, BenchError> {
        let counts = samples(count, || Ok(self.guest(COUNTED)?.notifications as f64 / COUNTED.count as f64))?;
        Ok(Row::alone("block/doorbells-per-request", &counts).in_unit(EACH).aiming_at(0.1))
    }
}

/// How many of a load's chunks that makes in a second.
fn per_second(load: Load, nanoseconds: f64) -> f64 {
    load.count as f64 * SECOND / nanoseconds
}

/// Both of each pair in another unit.
fn each(pairs: Vec<(f64, f64)>, f: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    pairs.into_iter().map(|(ours, floor)| (f(ours), f(floor))).collect()
}

/// Nanoseconds that all threads of this process together spend meanwhile.
fn processor_time(work: impl FnOnce() -> Result<(), BenchError>) -> Sample {
    let now = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec as f64 * SECOND + time.tv_nsec as f64
    };
    let before = now();
    work()?;
    Ok(now() - before)
}
