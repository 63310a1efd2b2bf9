//! What a front-end that behaves gets.

use super::front::*;
use crate::block::image::{Image, MemoryImage};
use crate::block::{Backend, Disk, Limit};
use crate::driver::{Device, Sleep};
use crate::fake_host::FakeHost;
use pv_abi::PAGE_SIZE;
use pv_abi::io::block::{Operation, Segment, Status};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

#[test]
fn what_is_written_is_read_and_lies_in_the_file() {
    for by in ENGINES {
        let mut front = Front::new();
        let (file, disk) = file_disk(64);
        let mut backend = front.connect_by(&disk, by);
        front.fill(0, 0xaa);
        front.fill(1, 0xbb);
        let status = front.call(&mut backend, &write(7, 3, &[sectors(0, 6, 7), sectors(1, 0, 0)]));
        assert_eq!(status, Status::OKAY);
        let mut bytes = [0; 5 * 512];
        file.read_exact_at(&mut bytes, 2 * 512).unwrap();
        let expected = [[0; 512], [0xaa; 512], [0xaa; 512], [0xbb; 512], [0; 512]].concat();
        assert_eq!(bytes[..], expected[..]);
        assert_eq!(front.call(&mut backend, &read(8, 2, &[sectors(2, 1, 5)])), Status::OKAY);
        assert_eq!(front.page(2).bytes()[512..6 * 512], expected[..]);
        assert_eq!(front.page(2).bytes()[..512], [0; 512], "and no more than was asked for");
        assert_eq!((front.page(2).times_written(), front.page(0).times_written()), (1, 0));
    }
}

#[test]
fn a_full_ring_is_answered_whatever_the_order_and_ids() {
    for by in ENGINES {
        let mut front = Front::with_ring_pages(4);
        let (_, disk) = file_disk(4096);
        let mut backend = front.connect_by(&disk, by);
        let slots = front.ring.slots();
        assert_eq!(slots, 128);
        for _ in 0..5 {
            front.ask_all((0..slots).map(|i| read((i / 2).into(), 8 * u64::from(i), &[whole(i % 100)])));
            assert_eq!(front.ring.room(), 0);
            finish(&mut backend);
            let mut answers = front.answers();
            answers.sort_by_key(|answer| answer.0);
            let expected: Vec<_> = (0..slots).map(|i| (u64::from(i / 2), Status::OKAY)).collect();
            assert_eq!(answers, expected, "each id twice");
        }
    }
}

#[test]
fn indirect_requests_move_up_to_a_mebibyte() {
    for by in ENGINES {
        let mut front = Front::new();
        let (file, disk) = file_disk(4096);
        let mut backend = front.connect_by(&disk, by);
        (0..32).for_each(|page| front.fill(page, page as u8 + 1));
        let segments: Vec<Segment> = (0..256).map(|i| whole(i % 32)).collect();
        let request = indirect(&front, Operation::WRITE, 1, 50, &segments);
        assert_eq!(front.call(&mut backend, &request), Status::OKAY);
        let mut bytes = vec![0; 256 * PAGE_SIZE];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.chunks(PAGE_SIZE).zip((1..=32).cycle()).all(|(page, byte)| page == [byte; PAGE_SIZE]));
        let request = indirect(&front, Operation::READ, 2, 50, &[whole(60), whole(61)]);
        assert_eq!(front.call(&mut backend, &request), Status::OKAY);
        assert_eq!((front.page(60).bytes(), front.page(61).bytes()), ([1; PAGE_SIZE], [2; PAGE_SIZE]));
    }
}

#[test]
fn discarded_sectors_read_as_zero_and_their_neighbours_stay() {
    let ((_file, in_file), (_other, by_uring)) = (file_disk(64), file_disk(64));
    for (by, disk) in [(By::Blocking, in_file), (By::Uring, by_uring), (By::Blocking, memory_disk(64))] {
        {
            let mut front = Front::new();
            let mut backend = front.connect_by(&disk, by);
            front.fill(0, 0x55);
            for sector in [0, 8, 16] {
                assert_eq!(front.call(&mut backend, &write(0, sector, &[whole(0)])), Status::OKAY);
            }
            assert_eq!(front.call(&mut backend, &discard(1, 1, 17)), Status::OKAY);
            assert_eq!(front.call(&mut backend, &read(2, 0, &[whole(1), whole(2), whole(3)])), Status::OKAY);
            let bytes = [1, 2, 3].map(|page| front.page(page).bytes()).concat();
            assert!(bytes[..512].iter().chain(&bytes[18 * 512..]).all(|byte| *byte == 0x55));
            assert!(bytes[512..18 * 512].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_disk_in_memory_begins_with_its_contents() {
    let image = MemoryImage::new(1000 * 512, b"contents").unwrap();
    assert_eq!(image.bytes(), 512_000);
    let disk = Arc::new(Disk::new("demo", Arc::new(image), true));
    let mut front = Front::new();
    let mut backend = front.connect(&disk);
    assert_eq!(front.call(&mut backend, &read(0, 0, &[whole(0)])), Status::OKAY);
    assert_eq!(front.page(0).bytes()[..9], *b"contents\0");
    assert!(MemoryImage::new(4, b"contents").is_err());
}

#[test]
fn a_read_only_disk_can_be_read_and_flushed_and_nothing_else() {
    let mut front = Front::new();
    let disk = Arc::new(Disk::new("ro", Arc::new(MemoryImage::new(8192, b"x").unwrap()), false));
    let mut backend = front.connect(&disk);
    assert_eq!(front.call(&mut backend, &read(0, 0, &[whole(0)])), Status::OKAY);
    assert_eq!(front.call(&mut backend, &flush(0)), Status::OKAY);
    let indirect = indirect(&front, Operation::WRITE, 0, 1, &[whole(0)]);
    let barrier = |segments| request(Operation::WRITE_BARRIER, 0, 0, segments);
    for request in [write(0, 0, &[whole(0)]), barrier(&[whole(0)]), barrier(&[]), discard(0, 0, 1), indirect]
    {
        assert_eq!(front.call(&mut backend, &request), Status::ERROR, "{:?}", request.operation);
        assert_eq!(backend.last_refusal().unwrap().reason, "the disk is read-only");
    }
}

#[test]
fn notifications_go_to_whoever_asked_for_them() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    assert!(front.ask(&read(0, 0, &[whole(0)])), "the first request is notified");
    assert!(!front.ask(&read(1, 0, &[whole(0)])), "and the second one not, until the back-end has asked");
    while backend.serve().unwrap() {}
    assert_eq!(front.host.notifications(GUEST, PORT), 1);
    front.ask(&read(2, 0, &[whole(0)]));
    while backend.serve().unwrap() {}
    assert_eq!(front.host.notifications(GUEST, PORT), 1, "the front-end has not asked again");
    assert_eq!(front.answers().len(), 3);
    assert!(!front.ring.ask_for_notification().unwrap());
    assert_eq!(backend.prepare_to_sleep().unwrap(), Sleep::UntilRung);
    assert!(front.ask(&read(3, 0, &[whole(0)])));
    assert_eq!(backend.prepare_to_sleep().unwrap(), Sleep::No, "it came before the sleep");
    while backend.serve().unwrap() {}
    assert_eq!(front.host.notifications(GUEST, PORT), 2);
}

#[test]
fn pages_are_mapped_as_long_as_a_request_takes_or_as_agreed() {
    let mut front = Front::new();
    let disk = memory_disk(64);
    let mut backend = front.connect(&disk);
    front.call(&mut backend, &read(0, 0, &[whole(0)]));
    assert_eq!(front.page(0).times_mapped(), 0);
    drop(backend);
    assert_eq!(front.host.open_ports(), 0);
    assert_eq!(front.host.grant(GUEST, RING).times_mapped(), 0);

    front.parameters.persistent_grants = true;
    let mut backend = front.connect(&disk);
    front.call(&mut backend, &write(0, 0, &[whole(0)]));
    front.call(&mut backend, &read(0, 0, &[whole(0)]));
    assert_eq!(front.page(0).times_mapped(), 1);
    front.host.revoke(GUEST, whole(0).gref);
    assert_eq!(front.call(&mut backend, &read(0, 0, &[whole(0)])), Status::OKAY, "it is still mapped");
}

fn limited(limit: Limit) -> Arc<Disk> {
    let image = Arc::new(MemoryImage::new(64 * 512, &[]).unwrap());
    Arc::new(Disk::new("limited", image, true).limited(limit))
}

#[test]
fn a_limited_disk_takes_a_burst_and_then_waits() {
    // A burst, and one in debt, whether they can be done or not; the third one waits for a second.
    for sector in [0, 64] {
        let mut front = Front::new();
        let limit = Limit { operations_per_second: NonZeroU64::MIN.into(), ..Limit::default() };
        let mut backend = front.connect(&limited(limit));
        front.ask_all((0..3).map(|id| read(id, sector, &[whole(0)])));
        assert!(waits(&mut front, &mut backend) > 0);
    }
}

#[test]
fn a_disk_is_limited_by_bytes_too() {
    let mut front = Front::new();
    // A burst is less than a page: the first one makes a debt, which the second one waits for.
    let limit = Limit { bytes_per_second: NonZeroU64::new(4 << 10), ..Limit::default() };
    let mut backend = front.connect(&limited(limit));
    front.ask_all((0..2).map(|id| read(id, 0, &[whole(0)])));
    assert!(waits(&mut front, &mut backend) > 0);
}

#[test]
fn a_new_connection_owes_what_the_last_one_did() {
    let disk = limited(Limit { bytes_per_second: NonZeroU64::new(4 << 10), ..Limit::default() });
    for earlier in [0, 1] {
        let mut front = Front::new();
        let mut backend = front.connect(&disk);
        front.ask_all([read(0, 0, &[whole(0)])]);
        assert_eq!(waits(&mut front, &mut backend) > 0, earlier > 0, "connection {earlier}");
    }
}

/// Serves until all is answered; how often that had to wait for its time.
fn waits(front: &mut Front, backend: &mut Backend<FakeHost>) -> u32 {
    let mut waits = 0;
    while front.ring.outstanding() != 0 {
        if backend.serve().unwrap() {
            front.answers();
        } else if let Sleep::AtMost(time) = backend.prepare_to_sleep().unwrap() {
            waits += 1;
            std::thread::sleep(time);
        }
    }
    waits
}

#[test]
fn a_new_connection_goes_on_where_the_last_one_stopped() {
    let mut front = Front::new();
    let disk = memory_disk(64);
    let mut backend = front.connect(&disk);
    front.call(&mut backend, &read(0, 0, &[whole(0)]));
    drop(backend);
    front.ask(&read(1, 0, &[whole(0)]));
    let mut backend = front.connect(&disk);
    finish(&mut backend);
    assert_eq!(front.answers(), [(1, Status::OKAY)]);
}

#[test]
fn data_that_spans_the_pages_of_a_ring_arrives() {
    let mut front = Front::with_ring_pages(2);
    let mut backend = front.connect(&memory_disk(4096));
    for round in 0..front.ring.slots() * 3 {
        let id = u64::from(round) << 40 | 0x1234_5678;
        front.ask(&read(id, 8, &[whole(3)]));
        finish(&mut backend);
        assert_eq!(front.answers(), [(id, Status::OKAY)]);
    }
}
