//! The front-end against back-ends that lie. What they say is an error for whoever asked, never a panic; no data but that of
//! a request's own pages is taken for its answer; and no page goes to another request, or back to the kernel, before its
//! own has ended.

use super::*;
use crate::block::{BlockDevice, Error};
use crate::driver::{Driver, FrontEnd, Nodes};
use crate::fakes;
use crate::memory::SharedPage;
use pv_abi::io::block::{Request, Response, Segment, Status};
use pv_abi::ring::{REQ_PROD, RSP_EVENT, RSP_PROD};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use zerocopy::{FromBytes, IntoBytes};

const SLOT: usize = size_of::<Request>();
const SLOTS: u32 = 32;

#[test]
fn disks_and_partitions_have_their_customary_names() {
    for (number, name) in [
        (202 << 8, "xvda"),
        (202 << 8 | 15 << 4, "xvdp"),
        (202 << 8 | 1 << 4 | 3, "xvdb3"),
        (1 << 28 | 16 << 8, "xvdq"),
        (1 << 28 | 25 << 8, "xvdz"),
        (1 << 28 | 26 << 8, "xvdaa"),
        (1 << 28 | 27 << 8 | 200, "xvdab200"),
        (1 << 28 | 701 << 8, "xvdzz"),
        (1 << 28 | 702 << 8, "xvdaaa"),
        (0xfffff << 8 | 1 << 28, "xvdbgqcv"),
        (768, "vbd768"),
        (2 << 28, "vbd536870912"),
    ] {
        assert_eq!(name_of(number), name, "{number:#x}");
    }
}

/// The list of disks is the kernel's one, so one test at a time has it.
static ALONE: Mutex<()> = Mutex::new(());

/// A front-end, and the back-end's view of its ring.
struct Setup {
    front_end: Box<dyn FrontEnd>,
    ring: SharedPage,
    _alone: MutexGuard<'static, ()>,
}

fn nodes(nodes: &[(&str, &str)]) -> Nodes {
    nodes.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect()
}

impl Setup {
    /// Rings are published, and nobody has connected.
    fn published() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut front_end = BlockDriver.front_end(51712, &Nodes::new());
        let said = front_end.publish(DomId(0), &nodes(&[("feature-persistent", "1")])).unwrap();
        let ring = fakes::page(said["ring-ref"].parse().unwrap());
        Self { front_end, ring, _alone: alone }
    }

    /// A disk of a thousand sectors.
    fn connected() -> (Self, Rc<dyn BlockDevice>) {
        let mut setup = Self::published();
        let properties = [("sectors", "1000"), ("feature-flush-cache", "1"), ("feature-discard", "1")];
        setup.front_end.connect(&nodes(&properties)).unwrap();
        let disk = block::find("xvda").unwrap();
        (setup, disk)
    }

    fn asked(&self) -> u32 {
        self.ring.word(REQ_PROD).load(Ordering::SeqCst)
    }

    fn request(&self, index: u32) -> Request {
        let mut bytes = [0; SLOT];
        self.ring.read(64 + (index % SLOTS) as usize * SLOT, &mut bytes);
        Request::read_from_bytes(&bytes).unwrap()
    }

    /// Puts a response into a slot, without showing it.
    fn put(&self, index: u32, id: u64, status: Status) {
        let response = Response::new(id, Operation::READ, status);
        self.ring.write(64 + (index % SLOTS) as usize * SLOT, response.as_bytes());
    }

    fn show(&self, produced: u32) {
        self.ring.word(RSP_PROD).store(produced, Ordering::SeqCst);
    }
}

/// Polls a future once, as a task would that is never woken.
fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

const FAILED: Poll<Result<(), Error>> = Poll::Ready(Err(Error::Failed));
const DONE: Poll<Result<(), Error>> = Poll::Ready(Ok(()));

#[test]
fn an_honest_back_end_is_believed() {
    let (setup, disk) = Setup::connected();
    let mut bytes = [0; 8192];
    {
        let mut work = disk.read(3, &mut bytes);
        assert!(poll(&mut work).is_pending());
        let request = setup.request(0);
        assert_eq!((setup.asked(), request.sector_number, request.nr_segments), (1, 3, 2));
        for (Segment { gref, .. }, byte) in request.seg[..2].iter().zip([1, 2]) {
            fakes::page(gref.0).write(0, &[byte; 4096]);
        }
        setup.put(0, request.id, Status::OKAY);
        setup.show(1);
        assert_eq!(poll(&mut work), DONE);
    }
    assert!(bytes[..4096].iter().all(|byte| *byte == 1) && bytes[4096..].iter().all(|byte| *byte == 2));
    let mut work = disk.flush();
    assert!(poll(&mut work).is_pending());
    assert_eq!(setup.request(1).operation, Operation::FLUSH_DISKCACHE);
    assert_eq!(fakes::notified(), 1, "it has not asked for more");
}

/// The kernel looks by itself while nothing else is to do, and does not look for ever at what makes no sense.
#[test]
fn a_kernel_that_rests_comes_to_rest() {
    for produced in [0, 1, 2, 77, u32::MAX] {
        let (setup, disk) = Setup::connected();
        let mut work = disk.flush();
        assert!(poll(&mut work).is_pending());
        setup.put(0, setup.request(0).id, Status::OKAY);
        setup.show(produced);
        assert_eq!(idle::rest(), produced != 0);
        assert!(!idle::rest(), "{produced}");
        match produced {
            0 => assert!(poll(&mut work).is_pending()),
            1 => assert_eq!(poll(&mut work), DONE),
            _ => assert_eq!(poll(&mut work), FAILED),
        }
    }
}

/// What ends a connection: it has failed for all that is on its way, and for all that comes after.
fn breaks(lie: impl Fn(&Setup, [u64; 2])) {
    let (mut setup, disk) = Setup::connected();
    let (mut one, mut two) = ([7; 512], [7; 512]);
    {
        let (mut first, mut second) = (disk.read(0, &mut one), disk.read(1, &mut two));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        for index in 0..2 {
            fakes::page(setup.request(index).seg[0].gref.0).write(0, &[9; 4096]);
        }
        lie(&setup, [0, 1].map(|index| setup.request(index).id));
        assert_eq!((poll(&mut second), poll(&mut first)), (FAILED, FAILED));
    }
    assert_eq!((one, two), ([7; 512], [7; 512]), "nothing of it is data");
    let asked = setup.asked();
    assert_eq!(poll(&mut disk.read(2, &mut one)), FAILED);
    assert_eq!(poll(&mut disk.flush()), FAILED);
    assert_eq!(setup.asked(), asked, "it is asked for nothing any more");
    setup.front_end.disconnect();
    assert_eq!(fakes::lent(), 0);
    assert_eq!(poll(&mut disk.flush()), Poll::Ready(Err(Error::Gone)));
}

#[test]
fn an_index_that_jumps_fails_what_is_on_its_way() {
    for lie in [3, 32, 1 << 31, u32::MAX] {
        breaks(|setup, _| setup.show(lie));
    }
}

#[test]
fn an_index_that_goes_backwards_fails_what_is_on_its_way() {
    let (setup, disk) = Setup::connected();
    let mut bytes = [0; 512];
    let mut work = disk.read(0, &mut bytes);
    assert!(poll(&mut work).is_pending());
    setup.put(0, setup.request(0).id, Status::OKAY);
    setup.show(1);
    assert_eq!(poll(&mut work), DONE);
    drop(work);
    let mut work = disk.read(0, &mut bytes);
    assert!(poll(&mut work).is_pending());
    setup.show(0);
    assert_eq!(poll(&mut work), FAILED);
}

#[test]
fn a_response_that_nobody_asked_for_fails_what_is_on_its_way() {
    for wild in [0, 3, u64::MAX] {
        breaks(|setup, _| {
            setup.put(0, wild, Status::OKAY);
            setup.show(1);
        });
    }
}

/// One request is answered twice, and the other one not at all.
#[test]
fn a_response_that_comes_twice_is_no_answer_to_another_request() {
    let (setup, disk) = Setup::connected();
    let (mut one, mut two) = ([7; 512], [7; 512]);
    let (mut first, mut second) = (disk.read(0, &mut one), disk.read(1, &mut two));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    let id = setup.request(0).id;
    setup.put(0, id, Status::OKAY);
    setup.put(1, id, Status::OKAY);
    setup.show(2);
    assert_eq!(poll(&mut second), FAILED);
    drop((first, second));
    assert_eq!(two, [7; 512]);
}

#[test]
fn a_status_that_is_none_is_an_error_and_the_disk_goes_on() {
    let (setup, disk) = Setup::connected();
    let mut bytes = [7; 512];
    for (index, status) in (0u32..).zip([-1, 1, i16::MAX, i16::MIN, -2]) {
        let mut work = disk.read(0, &mut bytes);
        assert!(poll(&mut work).is_pending());
        fakes::page(setup.request(index).seg[0].gref.0).write(0, &[9; 4096]);
        setup.put(index, setup.request(index).id, Status(status));
        setup.show(index + 1);
        let expected = if status == -2 { Error::Unsupported } else { Error::Failed };
        assert_eq!(poll(&mut work), Poll::Ready(Err(expected)), "{status}");
    }
    assert_eq!(bytes, [7; 512]);
}

/// Whoever waited has gone; the back-end may still write there.
#[test]
fn pages_of_a_request_that_was_given_up_wait_for_its_response() {
    let (setup, disk) = Setup::connected();
    let (mut bytes, mut more) = ([0; 512], [0; 512]);
    let mut work = disk.read(0, &mut bytes);
    assert!(poll(&mut work).is_pending());
    drop(work);
    let given_up = setup.request(0);
    let mut work = disk.read(0, &mut more);
    assert!(poll(&mut work).is_pending());
    assert_ne!(setup.request(1).seg[0].gref, given_up.seg[0].gref);
    setup.put(0, given_up.id, Status::OKAY);
    setup.show(1);
    assert!(poll(&mut work).is_pending(), "that was not its answer");
    let mut third = disk.flush();
    assert!(poll(&mut third).is_pending());
    setup.put(1, given_up.id, Status::OKAY);
    setup.show(2);
    assert_eq!(poll(&mut work), FAILED, "it was answered already");
}

/// It never answers. A full ring makes others wait, and the end of the back-end is the end of their waiting.
#[test]
fn a_back_end_that_vanishes_ends_all_that_waits_for_it() {
    let (mut setup, disk) = Setup::connected();
    let mut flushes: Vec<_> = (0..40).map(|_| disk.flush()).collect();
    for _ in 0..3 {
        assert!(flushes.iter_mut().all(|work| poll(work).is_pending()));
    }
    assert_eq!(setup.asked(), SLOTS);
    setup.front_end.disconnect();
    assert!(block::find("xvda").is_none());
    assert!(flushes.iter_mut().all(|work| poll(work) == Poll::Ready(Err(Error::Gone))));
    assert_eq!(fakes::lent(), 0);
    // It is there again: what it says to the old requests is nothing to the new ones.
    setup.front_end.publish(DomId(0), &Nodes::new()).unwrap();
    assert_eq!(poll(&mut disk.flush()), Poll::Ready(Err(Error::Gone)), "it has not connected");
}

#[test]
fn absurd_properties_are_refused_with_a_reason() {
    let most = (u64::MAX / 512).to_string();
    for (properties, reason) in [
        (&[][..], "how large the disk is"),
        (&[("sectors", "")], "how large the disk is"),
        (&[("sectors", "-1")], "how large the disk is"),
        (&[("sectors", "18446744073709551616")], "how large the disk is"),
        (&[("sectors", "18446744073709551615")], "18446744073709551615 sectors"),
        (&[("sectors", &most)], "sectors"),
        (&[("sectors", "8"), ("sector-size", "0")], "sectors of 0 bytes"),
        (&[("sectors", "8"), ("sector-size", "256")], "sectors of 256 bytes"),
        (&[("sectors", "8"), ("sector-size", "1000")], "sectors of 1000 bytes"),
        (&[("sectors", "8"), ("sector-size", "9223372036854775808")], "bytes"),
    ] {
        let mut setup = Setup::published();
        let refused = setup.front_end.connect(&nodes(properties)).unwrap_err();
        assert!(refused.contains(reason), "{properties:?}: {refused}");
        assert!(block::find("xvda").is_none());
    }
}

#[test]
fn a_disk_of_any_size_that_is_believed_can_be_asked_for_anything() {
    let mut setup = Setup::published();
    let most = i64::MAX as u64 / 512;
    setup.front_end.connect(&nodes(&[("sectors", &most.to_string()), ("info", "4294967295")])).unwrap();
    let disk = block::find("xvda").unwrap();
    let out_of_range = Poll::Ready(Err(Error::OutOfRange));
    assert_eq!(poll(&mut disk.read(most, &mut [0; 512])), out_of_range);
    assert_eq!(poll(&mut disk.read(u64::MAX, &mut [0; 512])), out_of_range);
    assert!(poll(&mut disk.read(most - 1, &mut [0; 512])).is_pending());
    assert_eq!(poll(&mut disk.write(0, &[0; 512])), Poll::Ready(Err(Error::ReadOnly)));
    assert_eq!(poll(&mut disk.discard(0, u64::MAX)), Poll::Ready(Err(Error::OutOfRange)));
}

/// A back-end that writes anything anywhere in what it was lent, while requests come and go.
#[test]
fn no_back_end_makes_it_panic() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random >> 11
    };
    for _ in 0..200 {
        let (mut setup, disk) = Setup::connected();
        let (mut buffers, data) = ([[0u8; 6000 / 512 * 512]; 6], [5; 4096]);
        let mut work: Vec<_> = buffers.iter_mut().map(|bytes| disk.read(7, bytes)).collect();
        work.extend((0..40).map(|sector| disk.write(sector, &data)));
        for turn in 0..60 {
            match next() % 8 {
                0 => setup.show(next() as u32),
                1 => setup.ring.word(RSP_EVENT).store(next() as u32, Ordering::SeqCst),
                2 => setup.ring.write((next() % 4088) as usize, &next().to_le_bytes()),
                3 => setup.put(next() as u32, next() % 50, Status(next() as i16)),
                _ => {
                    let index = (turn / 2) as u32;
                    setup.put(index, setup.request(index).id, Status((next() % 3) as i16 - 2));
                    setup.show(index.wrapping_add(1));
                }
            }
            let which = (next() % work.len() as u64) as usize;
            idle::rest();
            match next() % 10 {
                0 => drop(work.swap_remove(which)),
                _ if poll(&mut work[which]).is_ready() => drop(work.swap_remove(which)),
                _ => {}
            }
            if work.is_empty() {
                break;
            }
        }
        setup.front_end.disconnect();
        assert!(work.iter_mut().all(|work| poll(work).is_ready()));
        assert_eq!(fakes::lent(), 0);
    }
}
