//! `measure`: a load of one kind on a disk, at random places. `paravane bench block` makes the same on the host, so both
//! know which places a seed stands for, and what every sector begins with.
//!
//! Reads go to the first half of the disk, whose sectors begin with their [`stamp`] of generation 0, which is checked;
//! writes go to the second half, and their generation is the seed.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Cell, RefCell};

use super::storage;
use crate::block::{BlockDevice, SECTOR};
use crate::sched::executor;
use crate::sched::future::Signal;
use crate::{event, time};

/// What is done with each chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Read,
    Write,
    /// A write, and a flush behind it.
    Flush,
}

/// A load: chunks of one size, so many at a time, at places that the seed decides.
#[derive(Clone, Copy)]
pub struct Load {
    action: Action,
    /// Bytes of a chunk: whole KiB, 1 MiB at most.
    chunk: usize,
    /// Chunks on their way together.
    depth: u64,
    /// Chunks that are moved before the load ends.
    count: u64,
    seed: u64,
}

impl Load {
    /// Chunks of so many KiB.
    pub fn new(action: &str, kibibytes: usize, depth: u64, count: u64, seed: u64) -> Result<Self, String> {
        let action = match action {
            "read" => Action::Read,
            "write" => Action::Write,
            "flush" => Action::Flush,
            _ => return Err(format!("{action} is neither read nor write nor flush")),
        };
        match (kibibytes, depth) {
            (1..=1024, 1..=64) => Ok(Self { action, chunk: kibibytes << 10, depth, count, seed }),
            _ => Err("chunks have 1 to 1024 KiB, and 1 to 64 of them are on their way".into()),
        }
    }

    /// The first sector of the `n`th chunk, on a disk of so many.
    fn place(&self, n: u64, sectors: u64) -> u64 {
        let half = sectors / 2;
        let sectors_of_chunk = (self.chunk / SECTOR) as u64;
        let chunks = half / sectors_of_chunk;
        let chunk = ((u128::from(scatter(self.seed << 32 | n)) * u128::from(chunks)) >> 64) as u64;
        let first = if self.action == Action::Read { 0 } else { half };
        first + chunk * sectors_of_chunk
    }
}

/// The output number `number` of the generator SplitMix64 whose seed is 0: it spreads the chunks over the disk.
fn scatter(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// What a sector begins with.
fn stamp(sector: u64, generation: u64) -> u64 {
    0x5a << 56 | (generation & 0xffff) << 40 | sector
}

/// A load that is under way.
struct Run {
    disk: Rc<dyn BlockDevice>,
    load: Load,
    /// The number of the next chunk that a worker takes. Workers end at the load's count, so storing that stops them.
    next: Cell<u64>,
    workers: Cell<u64>,
    failure: RefCell<Option<String>>,
    ended: Signal<()>,
}

/// Stops the workers when the command is interrupted.
struct StopOnDrop(Rc<Run>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.next.set(self.0.load.count);
    }
}

/// Runs a load, and tells its nanoseconds, and how many notifications this domain sent meanwhile.
pub async fn run(disk: &str, load: Load) -> Result<(), String> {
    let disk = match load.action {
        Action::Read => storage::disk(disk).await?,
        Action::Write | Action::Flush => storage::unmounted_disk(disk).await?,
    };
    if disk.properties().sectors / 2 < (load.chunk / SECTOR) as u64 {
        return Err("the disk is smaller than two chunks".into());
    }
    let (next, failure, ended) = (Cell::new(0), RefCell::new(None), Signal::new());
    let run = Rc::new(Run { disk, load, next, workers: Cell::new(load.depth), failure, ended });
    let stop = StopOnDrop(run.clone());
    let (start, before) = (time::now(), sent());
    for _ in 0..load.depth {
        executor::spawn("measure", work(run.clone()));
    }
    run.ended.wait().await;
    let (time, sent) = (time::now() - start, sent() - before);
    drop(stop);
    match run.failure.take() {
        Some(failure) => Err(failure),
        None => {
            println!("measured {time} {sent}");
            Ok(())
        }
    }
}

/// Notifications that this domain has sent to others, by doorbells and by hypercalls.
fn sent() -> u64 {
    event::counts().iter().map(|(_, counts)| counts.rings + counts.sends).sum()
}

/// Moves one chunk after the other, until there are no more.
async fn work(run: Rc<Run>) {
    let mut buffer = alloc::vec![0xff; run.load.chunk];
    while run.next.get() < run.load.count {
        let sector = run.load.place(run.next.replace(run.next.get() + 1), run.disk.properties().sectors);
        if let Err(failure) = run.one(sector, &mut buffer).await {
            run.next.set(run.load.count);
            *run.failure.borrow_mut() = Some(failure);
        }
    }
    run.workers.set(run.workers.get() - 1);
    if run.workers.get() == 0 {
        run.ended.set(());
    }
}

impl Run {
    async fn one(&self, sector: u64, buffer: &mut [u8]) -> Result<(), String> {
        let failed = |error| format!("sector {sector}: {error}");
        if self.load.action == Action::Read {
            self.disk.read(sector, buffer).await.map_err(failed)?;
            return check(sector, buffer);
        }
        for (bytes, sector) in buffer.chunks_mut(SECTOR).zip(sector..) {
            bytes[..8].copy_from_slice(&stamp(sector, self.load.seed).to_le_bytes());
        }
        self.disk.write(sector, buffer).await.map_err(failed)?;
        match self.load.action {
            Action::Flush => self.disk.flush().await.map_err(failed),
            _ => Ok(()),
        }
    }
}

/// Whether sectors are what they should be. They are spoiled, so that the next look is not at them.
fn check(first: u64, buffer: &mut [u8]) -> Result<(), String> {
    for (bytes, sector) in buffer.chunks_mut(SECTOR).zip(first..) {
        let found = u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ]);
        if found != stamp(sector, 0) {
            return Err(format!("sector {sector} begins with {found:#x}, not {:#x}", stamp(sector, 0)));
        }
        bytes[..8].fill(0);
    }
    Ok(())
}
