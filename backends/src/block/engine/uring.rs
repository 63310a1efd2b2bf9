//! Calls made through io_uring: as many at a time as were started, and the kernel moves the bytes directly between the
//! image's file and the pages of the front-end.
//!
//! Where reads come one by one, each is first tried at once: what is in the host's page cache is only copied, and one call
//! costs less than the way through the ring, which several share. Writes are made at once, one after the other: into the
//! page cache they only copy too. Most file systems cannot write there without perhaps waiting, so that io_uring would
//! hand each to a thread of the kernel's, for several times the price of the write itself. Neither holds for an image that
//! goes past the cache: all its calls go through the ring.
//!
//! Invariants:
//! - what the kernel was given pointers to (pages, and the vectors that list them) stays where it is, owned by
//!   `under_way`, until the completion of its call was taken; dropping the engine waits for that;
//! - there are never more calls under way than the queues have room for, so no completion is lost;
//! - the image outlives the ring that was given its descriptor.
#![allow(unsafe_code)]

use super::{Call, Engine, Transfer};
use crate::bell::Bell;
use crate::block::buffer::Buffer;
use crate::block::image::{Image, RawImage, system};
use crate::host::Page;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use vm_memory::VolatileSlice;

/// The image's file, as the ring knows it.
const FILE: types::Fixed = types::Fixed(0);

/// Reads that come alone after so many others which did are not worth a way that several could share.
const LATELY: u32 = 4;

/// The engine that works through io_uring.
pub(crate) struct Uring<P: Page> {
    ring: IoUring,
    /// By token.
    under_way: Vec<Option<UnderWay<P>>>,
    /// A read that goes into the ring if it does not stay alone.
    first: Option<(u32, Transfer<P>)>,
    /// How many reads have come alone, one after the other.
    alone: u32,
    /// Calls that were made at once, or could not even be started.
    finished: VecDeque<(u32, io::Result<usize>)>,
    awake: bool,
    image: Arc<dyn Image>,
    /// Its bytes go past the host's page cache.
    direct: bool,
}

/// What the kernel was given pointers to.
struct UnderWay<P> {
    _buffer: Option<Arc<Buffer<P>>>,
    _vectors: Vec<libc::iovec>,
}

// SAFETY: the vectors point into the pages of the buffer beside them, which may be used from any thread (`Page` is
// `Send` and `Sync`); only the kernel follows the pointers.
unsafe impl<P: Page> Send for UnderWay<P> {}

/// Whether this host has io_uring, with all calls that are made here.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let Ok(ring) = IoUring::new(2) else { return false };
        let mut probe = Probe::new();
        let calls = [
            opcode::Read::CODE,
            opcode::Readv::CODE,
            opcode::Write::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        ring.submitter().register_probe(&mut probe).is_ok()
            && calls.iter().all(|call| probe.is_supported(*call))
    })
}

impl<P: Page> Uring<P> {
    /// An engine for an image that lies in a file as it is, for up to `depth` calls at a time, whose ends ring `bell`.
    ///
    /// # Errors
    /// The host's, also where the bell has no descriptor.
    pub fn new(image: Arc<dyn Image>, depth: u32, bell: &Bell) -> io::Result<Self> {
        let unsupported = || io::Error::from(ErrorKind::Unsupported);
        let raw = image.as_raw().ok_or_else(unsupported)?;
        let (file, direct) = (raw.file(), raw.is_direct());
        let bell = bell.descriptor().ok_or_else(unsupported)?;
        let ring = IoUring::new(depth)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        let under_way = (0..depth).map(|_| None).collect();
        let mut engine = Self {
            ring,
            under_way,
            first: None,
            alone: 0,
            finished: VecDeque::new(),
            awake: false,
            image,
            direct,
        };
        engine.wake_up();
        Ok(engine)
    }

    fn wake_up(&mut self) {
        if !self.awake {
            self.ring.completion().disable_eventfd();
            self.awake = true;
        }
    }

    fn try_start(&mut self, token: u32, call: Call<P>) -> io::Result<()> {
        let place = self.under_way.get_mut(token as usize).filter(|place| place.is_none());
        let place = place.ok_or_else(|| io::Error::other("the token is not free"))?;
        let (entry, kept) = entry(call)?;
        *place = Some(kept);
        // SAFETY: the entry's pointers are to the vectors and into the pages of the buffer, both of which `under_way`
        // owns from now on: neither moves nor goes before `finished` has taken the completion with this token.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(token.into())) };
        pushed.map_err(|_| {
            self.under_way.get_mut(token as usize).map(Option::take);
            io::Error::other("the queue of calls is full")
        })
    }

    /// Puts a call into the ring.
    fn enter(&mut self, token: u32, call: Call<P>) {
        if let Err(error) = self.try_start(token, call) {
            self.finished.push_back((token, Err(error)));
        }
    }

    /// The first read has not stayed alone, or cannot be made at once.
    fn enter_first(&mut self) {
        if let Some((token, transfer)) = self.first.take() {
            self.enter(token, Call::Read(transfer));
        }
    }

    /// What a read has moved at once. None where that could not be.
    fn read_cached(&self, transfer: &Transfer<P>) -> Option<usize> {
        let file = self.image.as_raw().map(RawImage::file)?;
        let slices = transfer.buffer.slices(transfer.from).ok()?;
        // At the end of the file, and where it failed, the ring has the last word.
        system::read_cached(file, transfer.offset, &slices).ok().filter(|moved| *moved != 0)
    }

    /// Calls that the kernel has, and whose completion was not taken.
    fn in_kernel(&mut self) -> usize {
        let unsubmitted = self.ring.submission().len();
        self.under_way.iter().flatten().count().saturating_sub(unsubmitted)
    }
}

fn vectors<P: Page>(transfer: &Transfer<P>) -> io::Result<Vec<libc::iovec>> {
    // More would be refused; this way it is a short transfer.
    let slices = transfer.buffer.each_slice(transfer.from).take(libc::UIO_MAXIOV as usize);
    let vector = |slice: VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    slices.map(|slice| slice.map(vector).map_err(io::Error::other)).collect()
}

/// What the kernel is told of a call, and what that points to.
fn entry<P: Page>(call: Call<P>) -> io::Result<(squeue::Entry, UnderWay<P>)> {
    let nothing = UnderWay { _buffer: None, _vectors: Vec::new() };
    Ok(match call {
        Call::Read(transfer) => {
            let vectors = vectors(&transfer)?;
            let entry = match vectors[..] {
                [one] => opcode::Read::new(FILE, one.iov_base.cast(), one.iov_len as u32)
                    .offset(transfer.offset)
                    .build(),
                _ => opcode::Readv::new(FILE, vectors.as_ptr(), vectors.len() as u32)
                    .offset(transfer.offset)
                    .build(),
            };
            (entry, UnderWay { _buffer: Some(transfer.buffer), _vectors: vectors })
        }
        Call::Write(transfer) => {
            let vectors = vectors(&transfer)?;
            let entry = match vectors[..] {
                [one] => opcode::Write::new(FILE, one.iov_base.cast(), one.iov_len as u32)
                    .offset(transfer.offset)
                    .build(),
                _ => opcode::Writev::new(FILE, vectors.as_ptr(), vectors.len() as u32)
                    .offset(transfer.offset)
                    .build(),
            };
            (entry, UnderWay { _buffer: Some(transfer.buffer), _vectors: vectors })
        }
        Call::Flush => (opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(), nothing),
        Call::Discard { offset, length } => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            (opcode::Fallocate::new(FILE, length).offset(offset).mode(mode.bits() as i32).build(), nothing)
        }
    })
}

/// Whether this file can be read without waiting where its bytes are in memory. Where it cannot, io_uring hands every
/// read to a thread, and calls that wait are faster.
pub(super) fn suits(file: &File) -> bool {
    let mut byte = [0];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT);
    !matches!(read, Err(Errno::OPNOTSUPP | Errno::NOSYS))
}

impl<P: Page> Engine<P> for Uring<P> {
    fn start(&mut self, token: u32, call: Call<P>) {
        match call {
            Call::Write(transfer) if !self.direct => {
                let slices = transfer.buffer.slices(transfer.from).map_err(io::Error::other);
                let written = slices.and_then(|slices| self.image.write(transfer.offset, &slices));
                self.finished.push_back((token, written));
            }
            Call::Read(transfer)
                if !self.direct && self.first.is_none() && self.ring.submission().is_empty() =>
            {
                self.first = Some((token, transfer));
            }
            call => {
                self.alone = 0;
                self.enter_first();
                self.enter(token, call);
            }
        }
    }

    fn batch(&self) -> u32 {
        u32::MAX
    }

    fn submit(&mut self) {
        self.wake_up();
        if let Some((token, transfer)) = self.first.take() {
            self.alone = self.alone.saturating_add(1);
            let at_once = (self.alone > LATELY).then(|| self.read_cached(&transfer)).flatten();
            match at_once {
                Some(moved) => self.finished.push_back((token, Ok(moved))),
                None => self.enter(token, Call::Read(transfer)),
            }
        }
        if !self.ring.submission().is_empty() {
            // The host has no memory, or was interrupted: what is left is submitted the next time.
            let _ = self.ring.submit();
        }
    }

    fn finished(&mut self) -> Option<(u32, io::Result<usize>)> {
        if let Some(finished) = self.finished.pop_front() {
            return Some(finished);
        }
        let completion = self.ring.completion().next()?;
        let token = completion.user_data() as u32;
        if let Some(place) = self.under_way.get_mut(token as usize) {
            *place = None;
        }
        let result = completion.result();
        Some((
            token,
            usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg())),
        ))
    }

    fn wait(&mut self) {
        self.enter_first();
        if self.finished.is_empty() && self.under_way.iter().any(Option::is_some) {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    std::thread::sleep(Duration::from_millis(1))
                }
                _ => {}
            }
        }
    }

    fn prepare_to_sleep(&mut self) -> bool {
        self.awake = false;
        self.ring.completion().enable_eventfd();
        // Either the kernel sees that it is to ring, or we see what it has completed before.
        fence(Ordering::SeqCst);
        let ended = !self.ring.completion().is_empty() || !self.finished.is_empty();
        ended || self.first.is_some() || !self.ring.submission().is_empty()
    }
}

impl<P: Page> Drop for Uring<P> {
    fn drop(&mut self) {
        while self.in_kernel() != 0 {
            self.wait();
            while self.finished().is_some() {}
        }
    }
}
