//! Our front-end's ring against our back-end, with a model of the disk; and a peer that writes random memory.

use super::faulty::{Event, Fault, Faulty, Log};
use super::front::*;
use super::random::Random;
use crate::Disconnect;
use crate::driver::Device;
use crate::fake_host::{FakeHost, FakePage};
use crate::host::Page;
use pv_abi::GrantRef;
use pv_abi::io::block::{Operation, Request, Segment, Status};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;

const SECTORS: u64 = 256;

/// What a request that is under way will have done.
enum Pending {
    Read { sector: u64, segments: Vec<Segment>, page: u32 },
    Write { sector: u64, bytes: Vec<u8> },
    Flush,
    Discard { sector: u64, count: u64 },
    Refused,
}

struct Model {
    random: Random,
    /// By sector; nothing where a failed write or discard may have left anything.
    disk: Vec<Option<[u8; 512]>>,
    pending: HashMap<u64, Pending>,
    next_id: u64,
    counts: HashMap<&'static str, u32>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let disk = vec![Some([0; 512]); SECTORS as usize];
        Self { random: Random::new(seed), disk, pending: HashMap::new(), next_id: 0, counts: HashMap::new() }
    }

    /// Sectors that nothing under way touches: each request has a thirty-second of the disk to itself.
    fn place(&mut self) -> Option<u64> {
        let place = self.random.below(32) * 8;
        let taken = self.pending.values().any(|pending| match pending {
            Pending::Read { sector, .. }
            | Pending::Write { sector, .. }
            | Pending::Discard { sector, .. } => sector / 8 == place / 8,
            Pending::Flush | Pending::Refused => false,
        });
        (!taken).then_some(place)
    }

    /// Segments for at most eight sectors, in two pages that belong to the place.
    fn segments(&mut self, place: u64) -> Vec<Segment> {
        let page = place as u32 / 8 * 2;
        let (first, second) = (self.random.below(4) as u8, self.random.below(4) as u8);
        let mut segments = vec![sectors(page, first, first + self.random.below(4) as u8)];
        if self.random.once_in(2) {
            segments.push(sectors(page + 1, second, second + self.random.below(4) as u8));
        }
        segments
    }

    /// A request, and what comes of it.
    fn request(&mut self, front: &Front) -> Option<Request> {
        let id = self.next_id;
        self.next_id += 1;
        let (place, kind) = (self.place()?, self.random.below(16));
        let segments = self.segments(place);
        let (request, pending) = match kind {
            0..=5 => {
                let page = place as u32 / 8 * 2;
                (read(id, place, &segments), Pending::Read { sector: place, segments, page })
            }
            6..=11 => {
                let bytes = self.data(front, &segments);
                let request = match kind {
                    6 => request(Operation::WRITE_BARRIER, id, place, &segments),
                    7 => indirect(front, Operation::WRITE, id, 64 + place as u32 / 8, &segments),
                    _ => write(id, place, &segments),
                };
                let request = if kind == 7 { at(request, place) } else { request };
                (request, Pending::Write { sector: place, bytes })
            }
            12 => (flush(id), Pending::Flush),
            13 => {
                let count = 1 + self.random.below(8);
                (discard(id, place, count), Pending::Discard { sector: place, count })
            }
            14 => (read(id, SECTORS - 1, &[whole(0)]), Pending::Refused),
            _ => (write(id, place, &[sectors(0, 5, 4)]), Pending::Refused),
        };
        self.pending.insert(id, pending);
        Some(request)
    }

    /// Fills the segments with new data, and returns it.
    fn data(&mut self, front: &Front, segments: &[Segment]) -> Vec<u8> {
        let mut all = Vec::new();
        for segment in segments {
            let (start, length) = crate::block::request::range(segment);
            let bytes: Vec<u8> = (0..length).map(|_| self.random.next() as u8).collect();
            front.page(segment.gref.0 - DATA).write(start, &bytes).unwrap();
            all.extend(bytes);
        }
        all
    }

    fn answer(&mut self, front: &Front, id: u64, status: Status) {
        let pending = self.pending.remove(&id).expect("an answer that was asked for");
        let done = status == Status::OKAY;
        let kind = match (&pending, status) {
            (Pending::Refused, Status::ERROR) => "refused",
            (Pending::Refused, _) => panic!("{id} was done"),
            (_, Status::OKAY) => "done",
            _ => "failed",
        };
        *self.counts.entry(kind).or_default() += 1;
        match pending {
            Pending::Read { sector, segments, page } if done => self.compare(front, sector, &segments, page),
            Pending::Write { sector, bytes } => {
                for (sector, bytes) in (sector..).zip(bytes.chunks_exact(512)) {
                    self.disk[sector as usize] = done.then(|| bytes.try_into().unwrap());
                }
            }
            Pending::Discard { sector, count } if status != Status::EOPNOTSUPP => {
                let after = done.then_some([0; 512]);
                self.disk[sector as usize..(sector + count) as usize].fill(after);
            }
            _ => {}
        }
    }

    fn compare(&mut self, front: &Front, sector: u64, segments: &[Segment], page: u32) {
        let mut sector = sector as usize;
        for segment in segments {
            assert!(segment.gref.0 - DATA - page < 2);
            let (start, length) = crate::block::request::range(segment);
            let bytes = front.page(segment.gref.0 - DATA).bytes();
            for bytes in bytes[start..start + length].chunks_exact(512) {
                assert!(self.disk[sector].is_none_or(|expected| bytes == expected), "sector {sector}");
                sector += 1;
            }
        }
    }
}

/// The same indirect request for another place.
fn at(mut request: Request, sector: u64) -> Request {
    request.sector_number = sector; // at the same offset in every shape
    request
}

fn play(by: By, seed: u64, faults: bool) -> HashMap<&'static str, u32> {
    let mut front = Front::with_ring_pages(if seed.is_multiple_of(2) { 1 } else { 2 });
    front.parameters.persistent_grants = seed.is_multiple_of(3);
    let (_file, disk) = file_disk(SECTORS);
    let (mut model, mut dice) = (Model::new(seed), Random::new(!seed));
    let fault = move |event: &Event| match dice.below(24) {
        _ if !faults => None,
        0 if *event != Event::Flush => Some(Fault::Error(Errno::IO)),
        1 => Some(Fault::Error(Errno::INTR)),
        2..=4 => Some(Fault::Short(1 + dice.below(2000) as usize)),
        5..=7 => Some(Fault::Stall(dice.below(20) as u32)),
        _ => None,
    };
    let image = Arc::clone(disk.image());
    let mut backend = front.connect_with(&disk, |depth, bell| {
        Box::new(Faulty::new(by.engine(image, depth, bell), &Log::default(), fault))
    });
    for _ in 0..600 {
        for _ in 0..model.random.below(6) {
            if front.ring.room() != 0
                && let Some(request) = model.request(&front)
            {
                front.ask(&request);
            }
        }
        for _ in 0..model.random.below(4) {
            backend.serve().unwrap();
        }
        if model.random.once_in(4) {
            backend.quiesce().unwrap();
        }
        front.answers().into_iter().for_each(|(id, status)| model.answer(&front, id, status));
    }
    finish(&mut backend);
    front.answers().into_iter().for_each(|(id, status)| model.answer(&front, id, status));
    assert!(model.pending.is_empty());
    drop(backend);
    assert!((0..100).all(|page| front.page(page).times_mapped() == 0));
    model.counts
}

#[test]
fn the_disk_is_what_the_model_says() {
    for by in ENGINES {
        for seed in 0..6 {
            let counts = play(by, seed, false);
            assert!(!counts.contains_key("failed") && counts["done"] > 300 && counts["refused"] > 20);
        }
    }
}

#[test]
fn the_disk_is_what_the_model_says_whatever_the_host_does() {
    for by in ENGINES {
        for seed in 100..112 {
            let counts = play(by, seed, true);
            assert!(counts["failed"] > 5 && counts["done"] > 300, "{counts:?}");
        }
    }
}

/// Scribbles into the ring as an honest front-end never would, and lets the back-end look.
fn scribble(random: &mut Random, ring: &FakePage) {
    for _ in 0..random.below(64) {
        let (offset, byte) = (64 + random.below(4032) as usize, random.next() as u8);
        ring.write(offset, &[byte]).unwrap();
    }
    // Slots that look like requests get further.
    for _ in 0..random.below(8) {
        let slot = 64 + 112 * random.below(32) as usize;
        let operation = [0, 1, 2, 3, 5, 6, 6, random.next() as u8][random.below(8) as usize];
        let gref = (DATA + random.below(104) as u32).to_le_bytes();
        ring.write(slot, &[operation, random.below(13) as u8]).unwrap();
        ring.write(slot + 16, &random.below(300).to_le_bytes()).unwrap();
        (0..11).for_each(|segment| {
            ring.write(slot + 24 + segment * 8, &gref).unwrap();
            ring.write(slot + 28 + segment * 8, &[random.below(9) as u8, random.below(9) as u8]).unwrap();
        });
    }
}

#[test]
fn a_peer_that_writes_random_memory_is_disconnected_or_served_and_harms_nothing() {
    let mut ends = HashMap::<&str, u32>::new();
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut front = Front::new();
        front.parameters.persistent_grants = random.once_in(2);
        let by = ENGINES[random.below(2) as usize];
        let (_file, disk) = file_disk(SECTORS);
        let mut backend = front.connect_by(&disk, by);
        let (ring, mut produced, mut end) = (front.host.grant(GUEST, RING), 0u32, "served");
        for _ in 0..40 {
            scribble(&mut random, &ring);
            produced = match random.below(60) {
                0 => random.next() as u32,
                _ => produced.wrapping_add(random.below(9) as u32),
            };
            ring.store_u32(pv_abi::ring::REQ_PROD, produced).unwrap();
            match backend.serve() {
                Ok(_) => {}
                Err(Disconnect::Protocol(_)) => end = "disconnected",
                Err(other) => panic!("{other}"),
            }
            if end == "disconnected" {
                break;
            }
        }
        *ends.entry(end).or_default() += 1;
        drop(backend);
        assert_eq!(mapped(&front.host), 0);
    }
    assert!(ends["served"] > 20 && ends["disconnected"] > 20, "{ends:?}");
}

fn mapped(host: &FakeHost) -> usize {
    let page = |number| host.grant(GUEST, GrantRef(DATA + number)).times_mapped();
    (0..100).map(page).sum::<usize>() + host.grant(GUEST, RING).times_mapped()
}
