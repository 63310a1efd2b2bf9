//! Calls made through io_uring: as many at a time as were started, and the kernel moves the bytes directly between the
//! image's file and the pages of the front-end.
//!
//! Where reads come one by one, each is first tried at once: what is in the host's page cache is only copied, and one call
//! costs less than the way through the ring, which several share. Writes are made at once, one after the other: into the
//! page cache they only copy too. Most file systems cannot write there without perhaps waiting, so that io_uring would
//! hand each to a thread of the kernel's, for several times the price of the write itself. Neither holds for an image that
//! goes past the cache: all its calls go through the ring.
//!
//! A host that has set up a ring may still refuse to be entered through it, for a while (it has no memory) or for good (a
//! filter of system calls). It is asked again for about a second. Then the ring is given up: calls that the kernel has not
//! got are made one after the other, as all later ones are. Those that it has got end without being asked for.
//!
//! Invariants:
//! - what the kernel was given pointers to (pages, and the vectors that list them) stays where it is, owned by
//!   `under_way`, until the completion of its call was taken; dropping the engine waits for that;
//! - there are never more calls under way than the queues have room for, so no completion is lost;
//! - the image outlives the ring that was given its descriptor.
#![allow(unsafe_code)]

use super::{Call, Engine, Transfer, blocking};
use crate::bell::Bell;
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

/// How often in a row the kernel is entered in vain before the ring is given up, and the pause after each time: about a
/// second in all.
const ATTEMPTS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// The engine that works through io_uring.
pub(crate) struct Uring<P: Page> {
    ring: IoUring,
    /// The calls that the host works on, by token.
    under_way: Vec<Option<UnderWay<P>>>,
    /// Tokens of those that are in the ring's queue and that the kernel has not got, in their order there.
    unsubmitted: VecDeque<u32>,
    /// How often in a row the kernel was entered in vain.
    refusals: u32,
    /// The kernel is not entered any more.
    given_up: bool,
    /// Why it is not, until somebody asks.
    failure: Option<io::Error>,
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
    /// The call. It owns the pages for as long as the host may touch them.
    call: Call<P>,
    _vectors: Vec<libc::iovec>,
}

// SAFETY: the vectors point into the pages of the call beside them, which may be used from any thread (`Page` is
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
            unsubmitted: VecDeque::new(),
            refusals: 0,
            given_up: false,
            failure: None,
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
        // SAFETY: the entry's pointers are to the vectors and into the pages of the call, both of which `under_way`
        // owns from now on: neither moves nor goes before `finished` has taken the completion with this token.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(token.into())) };
        if pushed.is_err() {
            self.under_way.get_mut(token as usize).map(Option::take);
            return Err(io::Error::other("the queue of calls is full"));
        }
        self.unsubmitted.push_back(token);
        Ok(())
    }

    /// Puts a call into the ring.
    fn enter(&mut self, token: u32, call: Call<P>) {
        if self.given_up {
            self.make(token, &call);
        } else if let Err(error) = self.try_start(token, call) {
            self.finished.push_back((token, Err(error)));
        }
    }

    /// Makes a call without the ring.
    fn make(&mut self, token: u32, call: &Call<P>) {
        self.finished.push_back((token, blocking::make(&*self.image, call)));
    }

    /// Hands the kernel what it has not got, and waits until so many calls have ended. Where it does not let us, this is to
    /// be tried again, or the ring was given up.
    fn enter_kernel(&mut self, ends: usize) {
        let entered = self.ring.submit_and_wait(ends);
        let left = self.ring.submission().len();
        self.unsubmitted.drain(..self.unsubmitted.len().saturating_sub(left));
        match entered {
            Ok(_) => self.refusals = 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                self.refusals = self.refusals.saturating_add(1);
                if self.refusals < ATTEMPTS { std::thread::sleep(PAUSE) } else { self.give_up(error) }
            }
        }
    }

    /// The ring is not entered any more, so the kernel never looks at what is in its queue.
    fn give_up(&mut self, error: io::Error) {
        self.given_up = true;
        self.failure = Some(error);
        for token in std::mem::take(&mut self.unsubmitted) {
            let kept = self.under_way.get_mut(token as usize).and_then(Option::take);
            if let Some(UnderWay { call, .. }) = kept {
                self.make(token, &call);
            }
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
    fn in_kernel(&self) -> usize {
        self.under_way.iter().flatten().count().saturating_sub(self.unsubmitted.len())
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
    let vectors = match &call {
        Call::Read(transfer) | Call::Write(transfer) => vectors(transfer)?,
        Call::Flush | Call::Discard { .. } => Vec::new(),
    };
    let (count, all) = (vectors.len() as u32, vectors.as_ptr());
    let entry = match (&call, &vectors[..]) {
        (Call::Read(transfer), [one]) => {
            opcode::Read::new(FILE, one.iov_base.cast(), one.iov_len as u32).offset(transfer.offset).build()
        }
        (Call::Read(transfer), _) => opcode::Readv::new(FILE, all, count).offset(transfer.offset).build(),
        (Call::Write(transfer), [one]) => {
            opcode::Write::new(FILE, one.iov_base.cast(), one.iov_len as u32).offset(transfer.offset).build()
        }
        (Call::Write(transfer), _) => opcode::Writev::new(FILE, all, count).offset(transfer.offset).build(),
        (Call::Flush, _) => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
        (&Call::Discard { offset, length }, _) => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            opcode::Fallocate::new(FILE, length).offset(offset).mode(mode.bits() as i32).build()
        }
    };
    Ok((entry, UnderWay { call, _vectors: vectors }))
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
            Call::Write(_) if !self.direct => self.make(token, &call),
            Call::Read(transfer) if !self.direct && self.first.is_none() && self.unsubmitted.is_empty() => {
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
        if self.given_up { blocking::BATCH } else { u32::MAX }
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
        if !self.unsubmitted.is_empty() {
            self.enter_kernel(0);
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
            // What the kernel has got ends all the same.
            if self.given_up { std::thread::sleep(PAUSE) } else { self.enter_kernel(1) }
        }
    }

    fn prepare_to_sleep(&mut self) -> bool {
        self.awake = false;
        self.ring.completion().enable_eventfd();
        // Either the kernel sees that it is to ring, or we see what it has completed before.
        fence(Ordering::SeqCst);
        let ended = !self.ring.completion().is_empty() || !self.finished.is_empty();
        ended || self.first.is_some() || !self.unsubmitted.is_empty()
    }

    fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
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
