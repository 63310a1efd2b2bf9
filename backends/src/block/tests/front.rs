//! A front-end on a fake host, whose hands a test moves.

use crate::bell::Bell;
use crate::block::engine::uring::{self, Uring};
use crate::block::engine::{Engine, blocking::Blocking};
use crate::block::image::{Image, MemoryImage, RawImage};
use crate::block::{Backend, Disk, RingParameters};
use crate::driver::Device;
use crate::fake_host::{FakeHost, FakePage};
use crate::host::Page;
use crate::pages::Pages;
use pv_abi::io::block::{
    DiscardRequest, IndirectRequest, MAX_INDIRECT_PAGES, MAX_SEGMENTS, Operation, Request, Response, Segment,
    Status,
};
use pv_abi::ring::FrontRing;
use pv_abi::{DomId, EventPort, GrantRef, PAGE_SIZE};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub const GUEST: DomId = DomId(1);
pub const PORT: EventPort = EventPort(5);
/// The first page of the ring.
pub const RING: GrantRef = GrantRef(8);
/// The first page for data; a hundred follow.
pub const DATA: u32 = 100;

/// How the calls on a disk's image are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Blocking,
    Uring,
}

pub const ENGINES: [By; 2] = [By::Blocking, By::Uring];

impl By {
    pub fn engine(self, image: Arc<dyn Image>, depth: u32, bell: &Bell) -> Box<dyn Engine<FakePage>> {
        match self {
            Self::Blocking => Box::new(Blocking::new(image)),
            Self::Uring if uring::is_available() => Box::new(Uring::new(image, depth, bell).unwrap()),
            Self::Uring => {
                eprintln!("this host has no io_uring: not tested");
                Box::new(Blocking::new(image))
            }
        }
    }
}

pub struct Front {
    pub host: Arc<FakeHost>,
    pub ring: FrontRing<Pages<FakePage>, Request, Response>,
    pub parameters: RingParameters,
    pub bell: Arc<Bell>,
}

pub fn memory_disk(sectors: u64) -> Arc<Disk> {
    Arc::new(Disk::new("memory", Arc::new(MemoryImage::new(sectors * 512, &[]).unwrap()), true))
}

/// A file in memory, and a disk in it.
pub fn file_disk(sectors: u64) -> (File, Arc<Disk>) {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(sectors * 512).unwrap();
    let image = RawImage::new(file.try_clone().unwrap()).unwrap();
    (file, Arc::new(Disk::new("file", Arc::new(image), true)))
}

impl Front {
    pub fn new() -> Self {
        Self::with_ring_pages(1)
    }

    pub fn with_ring_pages(pages: u32) -> Self {
        let host = Arc::new(FakeHost::default());
        let ring_refs: Vec<_> = (0..pages).map(|number| GrantRef(RING.0 + number)).collect();
        let memory =
            Pages::new(ring_refs.iter().map(|&reference| host.grant(GUEST, reference)).collect::<Vec<_>>());
        let bytes = memory.bytes();
        let ring = FrontRing::initialise(memory, bytes).unwrap();
        host.offer(GUEST, PORT);
        (0..100).for_each(|number| drop(host.grant(GUEST, GrantRef(DATA + number))));
        let parameters = RingParameters { ring_refs, port: PORT, persistent_grants: false };
        Self { host, ring, parameters, bell: Arc::new(Bell::with_descriptor().unwrap()) }
    }

    pub fn connect(&self, disk: &Arc<Disk>) -> Backend<FakeHost> {
        self.connect_by(disk, By::Blocking)
    }

    pub fn connect_by(&self, disk: &Arc<Disk>, by: By) -> Backend<FakeHost> {
        let image = Arc::clone(disk.image());
        self.connect_with(disk, |depth, bell| by.engine(image, depth, bell))
    }

    pub fn connect_with(
        &self,
        disk: &Arc<Disk>,
        engine: impl FnOnce(u32, &Bell) -> Box<dyn Engine<FakePage>>,
    ) -> Backend<FakeHost> {
        let (host, bell) = (Arc::clone(&self.host), Arc::clone(&self.bell));
        Backend::with_engine(host, GUEST, &self.parameters, Arc::clone(disk), bell, engine).unwrap()
    }

    pub fn page(&self, number: u32) -> FakePage {
        self.host.grant(GUEST, GrantRef(DATA + number))
    }

    pub fn fill(&self, number: u32, byte: u8) {
        self.page(number).write(0, &[byte; PAGE_SIZE]).unwrap();
    }

    /// Puts a request and shows it; true where the back-end wants to be notified.
    pub fn ask(&mut self, request: &Request) -> bool {
        self.ring.put(request).unwrap();
        self.ring.publish().unwrap()
    }

    /// Asks for all of these.
    pub fn ask_all(&mut self, requests: impl IntoIterator<Item = Request>) {
        requests.into_iter().for_each(|request| self.ring.put(&request).unwrap());
        self.ring.publish().unwrap();
    }

    pub fn answers(&mut self) -> Vec<(u64, Status)> {
        std::iter::from_fn(|| self.ring.take().unwrap()).map(|answer| (answer.id, answer.status)).collect()
    }

    /// Asks, serves until nothing is under way, and returns the only answer. It must name the operation as Linux expects.
    pub fn call(&mut self, backend: &mut Backend<FakeHost>, request: &Request) -> Status {
        self.ask(request);
        finish(backend);
        let answer = self.ring.take().unwrap().expect("an answer");
        let operation = match request.operation {
            Operation::INDIRECT => {
                IndirectRequest::read_from_prefix(request.as_bytes()).unwrap().0.indirect_op
            }
            other => other,
        };
        assert_eq!((answer.id, answer.operation), (super::super::request::id(request), operation));
        assert_eq!(self.answers(), [], "one answer");
        answer.status
    }
}

/// Serves what is in the ring, and waits for its end.
pub fn finish(backend: &mut Backend<FakeHost>) {
    loop {
        while backend.serve().unwrap() {}
        backend.quiesce().unwrap();
        if !backend.serve().unwrap() {
            return;
        }
    }
}

/// All 8 sectors of a page that the front-end lends.
pub fn whole(page: u32) -> Segment {
    sectors(page, 0, 7)
}

pub fn sectors(page: u32, first_sect: u8, last_sect: u8) -> Segment {
    Segment { gref: GrantRef(DATA + page), first_sect, last_sect, padding: 0 }
}

pub fn request(operation: Operation, id: u64, sector_number: u64, segments: &[Segment]) -> Request {
    let mut request = Request { operation, id, sector_number, ..Request::new_zeroed() };
    request.nr_segments = segments.len() as u8;
    request.seg[..segments.len().min(MAX_SEGMENTS)].copy_from_slice(segments);
    request
}

pub fn read(id: u64, sector: u64, segments: &[Segment]) -> Request {
    request(Operation::READ, id, sector, segments)
}

pub fn write(id: u64, sector: u64, segments: &[Segment]) -> Request {
    request(Operation::WRITE, id, sector, segments)
}

pub fn flush(id: u64) -> Request {
    request(Operation::FLUSH_DISKCACHE, id, 0, &[])
}

pub fn discard(id: u64, sector_number: u64, nr_sectors: u64) -> Request {
    let operation = Operation::DISCARD;
    shaped(&DiscardRequest { operation, id, sector_number, nr_sectors, ..DiscardRequest::new_zeroed() })
}

/// Writes the segments into pages from `page` on, and names those.
pub fn indirect(front: &Front, operation: Operation, id: u64, page: u32, segments: &[Segment]) -> Request {
    let mut indirect_grefs = [GrantRef(0); MAX_INDIRECT_PAGES];
    for ((number, gref), part) in (page..).zip(&mut indirect_grefs).zip(segments.chunks(512)) {
        front.page(number).write(0, part.as_bytes()).unwrap();
        *gref = GrantRef(DATA + number);
    }
    shaped(&IndirectRequest {
        operation: Operation::INDIRECT,
        indirect_op: operation,
        nr_segments: segments.len() as u16,
        id,
        indirect_grefs,
        ..IndirectRequest::new_zeroed()
    })
}

/// A request of another shape as it lies in its slot.
pub fn shaped(shape: &(impl IntoBytes + zerocopy::Immutable)) -> Request {
    let mut request = Request::new_zeroed();
    shape.write_to_prefix(request.as_mut_bytes()).unwrap();
    request
}
