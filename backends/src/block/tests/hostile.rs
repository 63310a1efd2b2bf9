//! Front-ends that lie. Named after the lessons that Xen's advisories on back-ends teach.

use super::front::*;
use crate::Disconnect;
use crate::block::{Backend, RingParameters};
use crate::driver::Device;
use crate::host::Page;
use pv_abi::io::block::{Operation, Request, Segment, Status};
use pv_abi::ring::{REQ_PROD, RSP_EVENT, RSP_PROD};
use pv_abi::{GrantRef, PAGE_SIZE};
use std::sync::Arc;

fn reason(end: Result<bool, Disconnect>) -> String {
    end.expect_err("it is not served any more").to_string()
}

#[test]
fn a_producer_index_that_jumps_disconnects_with_a_reason() {
    for lie in [33, u32::MAX, 1 << 31] {
        let front = Front::new();
        let mut backend = front.connect(&memory_disk(64));
        front.host.grant(GUEST, RING).store_u32(REQ_PROD, lie).unwrap();
        let expected = format!("the ring's indices do not fit: produced {lie}, consumed 0");
        assert!(reason(backend.serve()).contains(&expected));
    }
}

/// It changes between two reads: whatever is used was checked.
#[test]
fn a_producer_index_is_read_once_before_it_is_used() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    front.ask(&read(1, 0, &[whole(0)]));
    let page = front.host.grant(GUEST, RING);
    let before = page.loads(REQ_PROD);
    page.script(REQ_PROD, [1, 1 << 30]);
    assert!(backend.serve().unwrap());
    assert_eq!(page.loads(REQ_PROD) - before, 1);
    assert!(reason(backend.serve()).contains("produced 1073741824"));
    assert_eq!(front.answers(), [(1, Status::OKAY)]);
}

#[test]
fn its_own_indices_are_never_read_back() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    let page = front.host.grant(GUEST, RING);
    let loads = page.loads(RSP_PROD);
    for id in 0..100 {
        page.store_u32(RSP_PROD, 0xdead).unwrap();
        front.ask(&read(id, 0, &[whole(0)]));
        finish(&mut backend);
        assert_eq!(front.answers(), [(id, Status::OKAY)]);
    }
    assert_eq!(page.loads(RSP_PROD) - loads, 200, "those of the front-end's");
}

/// Each is answered with an error, and the next honest request is served.
#[test]
fn requests_that_cannot_be_done_are_answered_and_harm_nothing() {
    let far = u64::MAX;
    let beyond = |operation, sector| request(operation, 1, sector, &[whole(0)]);
    let mut many = read(1, 0, &[whole(0)]);
    many.nr_segments = 12;
    let mut absurd = read(1, 0, &[whole(0)]);
    absurd.nr_segments = 255;
    let stranger = Segment { gref: GrantRef(9999), first_sect: 0, last_sect: 7, padding: 0 };
    let cases: Vec<(Request, &str)> = vec![
        (read(1, 0, &[]), "no segments"),
        (write(1, 0, &[]), "no segments"),
        (many, "more segments than a request has"),
        (absurd, "more segments than a request has"),
        (read(1, 0, &[sectors(0, 0, 8)]), "a segment that leaves its page"),
        (read(1, 0, &[sectors(0, 255, 255)]), "a segment that leaves its page"),
        (write(1, 0, &[sectors(0, 3, 2)]), "a segment that leaves its page"),
        (beyond(Operation::READ, 64), "sectors behind the end of the disk"),
        (beyond(Operation::WRITE, 57), "sectors behind the end of the disk"),
        (beyond(Operation::WRITE_BARRIER, far), "sectors behind the end of the disk"),
        (beyond(Operation::READ, far - 7), "sectors behind the end of the disk"),
        (beyond(Operation::READ, far / 512 + 1), "sectors behind the end of the disk"),
        (request(Operation::FLUSH_DISKCACHE, 1, 0, &[whole(0)]), "a flush has no segments"),
        (discard(1, 0, 0), "a discard of nothing"),
        (discard(1, 64, 1), "sectors behind the end of the disk"),
        (discard(1, 1, far), "sectors behind the end of the disk"),
        (read(1, 0, &[stranger]), "a page that is not granted"),
        (write(1, 0, &[whole(0), stranger]), "a page that is not granted"),
    ];
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    for (request, expected) in cases {
        assert_eq!(front.call(&mut backend, &request), Status::ERROR, "{expected}");
        assert_eq!(backend.last_refusal().unwrap().reason, expected);
        assert_eq!(front.call(&mut backend, &read(1, 0, &[whole(0)])), Status::OKAY);
    }
    for unknown in [4, 7, 255] {
        let status = front.call(&mut backend, &request(Operation(unknown), 1, 0, &[whole(0)]));
        assert_eq!(status, Status::EOPNOTSUPP);
    }
}

#[test]
fn a_barrier_of_nothing_may_name_any_sector() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    let status = front.call(&mut backend, &request(Operation::WRITE_BARRIER, 1, u64::MAX, &[]));
    assert_eq!(status, Status::OKAY);
}

#[test]
fn indirect_requests_are_checked_like_others() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    let page_of = |segments: &[Segment]| indirect(&front, Operation::READ, 1, 50, segments);
    let mut stranger = page_of(&[whole(0)]);
    stranger.seg[0].first_sect = 0xff; // a byte of the first page's reference
    let write_barrier = indirect(&front, Operation::WRITE_BARRIER, 1, 50, &[whole(0)]);
    let cases = [
        (page_of(&[]), Status::ERROR, "no segments, or more than were offered"),
        (page_of(&[whole(0); 257]), Status::ERROR, "no segments, or more than were offered"),
        (page_of(&[whole(0); 65535]), Status::ERROR, "no segments, or more than were offered"),
        (page_of(&[whole(0), sectors(1, 0, 9)]), Status::ERROR, "a segment that leaves its page"),
        (page_of(&[whole(0); 9]), Status::ERROR, "sectors behind the end of the disk"),
        (stranger, Status::ERROR, "a page that is not granted"),
        (write_barrier, Status::EOPNOTSUPP, "an indirect request that neither reads nor writes"),
    ];
    for (request, status, reason) in cases {
        // The page of segments is written anew: all cases use the same one.
        let segments = match reason {
            "a segment that leaves its page" => [whole(0), sectors(1, 0, 9)],
            _ => [whole(0); 2],
        };
        indirect(&front, Operation::READ, 1, 50, &[&segments[..], &[whole(0); 7]].concat());
        assert_eq!((front.call(&mut backend, &request), reason), (status, reason));
        assert_eq!(backend.last_refusal().unwrap().reason, reason);
    }
    let honest = indirect(&front, Operation::READ, 1, 50, &[whole(0); 8]);
    assert_eq!(front.call(&mut backend, &honest), Status::OKAY);
}

/// XSA-155: what was checked is what is used, also where it stands in a page that the front-end can write.
#[test]
fn the_segments_of_an_indirect_request_are_read_once() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    for asked in 1..4 {
        let request = indirect(&front, Operation::READ, 1, 50, &[whole(0); 8]);
        assert_eq!(front.call(&mut backend, &request), Status::OKAY);
        assert_eq!(front.page(50).times_read(), asked);
    }
}

/// XSA-155: what was checked is what is used, although the front-end writes the slot all the time.
#[test]
fn a_request_that_changes_after_it_was_taken_changes_nothing() {
    for by in ENGINES {
        let (_file, disk) = file_disk(64);
        let mut front = Front::new();
        let mut backend = front.connect_by(&disk, by);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let ring = front.host.grant(GUEST, RING);
        std::thread::scope(|scope| {
            let scribbler = scope.spawn(|| {
                let honest = read(1, 0, &[whole(0)]);
                let wild = request(Operation(3), u64::MAX, u64::MAX, &[sectors(5000, 200, 9); 11]);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for request in [&honest, &wild] {
                        let bytes = zerocopy::IntoBytes::as_bytes(request);
                        (0..32).for_each(|slot| ring.write(64 + slot * 112, bytes).unwrap());
                    }
                }
            });
            for _ in 0..2000 {
                front.ask(&read(1, 0, &[whole(0)]));
                finish(&mut backend);
                while front.ring.outstanding() != 0 {
                    front.answers();
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            scribbler.join().unwrap();
        });
        assert_eq!(front.page(1).times_mapped() + front.page(0).times_mapped(), 0);
    }
}

#[test]
fn duplicate_ids_are_the_front_ends_own_business() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(1024));
    front.ask_all((0..32).map(|i| write(42, i * 8, &[whole(i as u32)])));
    finish(&mut backend);
    assert_eq!(front.answers(), [(42, Status::OKAY); 32]);
}

/// It only ever asks. It loses its own responses, and costs no more than one that takes them.
#[test]
fn a_front_end_that_never_takes_responses_is_served_in_bounded_space() {
    let front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    let ring = front.host.grant(GUEST, RING);
    let request = read(1, 0, &[whole(0)]);
    (0..32).for_each(|slot| ring.write(64 + slot * 112, zerocopy::IntoBytes::as_bytes(&request)).unwrap());
    for asked in (0..3200u32).step_by(32) {
        ring.store_u32(REQ_PROD, asked + 32).unwrap();
        finish(&mut backend);
        assert_eq!((backend.unanswered(), ring.peek(RSP_PROD)), (0, asked + 32));
        // The responses lie in the slots: they are requests of an unknown kind, or reads, for all it cares.
    }
}

#[test]
fn events_that_are_asked_for_at_odd_places_are_only_missed() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    for event in [0, u32::MAX, 1 << 31, 7] {
        front.host.grant(GUEST, RING).store_u32(RSP_EVENT, event).unwrap();
        assert_eq!(front.call(&mut backend, &read(1, 0, &[whole(0)])), Status::OKAY);
    }
}

/// A page that is granted for reading only is not written, and not refused to be read.
#[test]
fn a_page_for_reading_only_is_not_written() {
    for persistent_grants in [false, true] {
        let mut front = Front::new();
        front.parameters.persistent_grants = persistent_grants;
        let mut backend = front.connect(&memory_disk(64));
        front.fill(0, 1);
        front.host.restrict(GUEST, whole(0).gref);
        assert_eq!(front.call(&mut backend, &write(1, 0, &[whole(0)])), Status::OKAY);
        assert_eq!(front.call(&mut backend, &read(1, 8, &[whole(0)])), Status::ERROR);
        assert_eq!(front.page(0).bytes(), [1; PAGE_SIZE]);
    }
}

#[test]
fn a_ring_that_is_taken_away_disconnects() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    front.ask(&read(1, 0, &[whole(0)]));
    front.host.grant(GUEST, RING).take_away();
    assert!(reason(backend.serve()).contains("the page is gone"));
}

/// A data page that is taken away in the middle is an error of that request.
#[test]
fn a_page_that_is_taken_away_fails_its_request_only() {
    let mut front = Front::new();
    let mut backend = front.connect(&memory_disk(64));
    front.page(1).take_away();
    assert_eq!(front.call(&mut backend, &read(1, 0, &[whole(0), whole(1)])), Status::ERROR);
    assert_eq!(front.call(&mut backend, &read(1, 0, &[whole(0)])), Status::OKAY);
}

#[test]
fn what_cannot_be_connected_says_why_and_leaves_nothing_behind() {
    let connect = |front: &Front, parameters: &RingParameters| {
        let (host, bell) = (Arc::clone(&front.host), Arc::clone(&front.bell));
        match Backend::connect(host, GUEST, parameters, memory_disk(8), bell) {
            Ok(_) => panic!("it has connected"),
            Err(reason) => reason.to_string(),
        }
    };
    let front = Front::new();
    let parameters = front.parameters.clone();
    for count in [0, 3, 32] {
        let ring_refs = vec![RING; count];
        let reason = connect(&front, &RingParameters { ring_refs, ..parameters.clone() });
        assert!(reason.contains(&format!("a ring of {count} pages")), "{reason}");
    }
    for pages in [1, 2, 4, 8, 16] {
        let mut front = Front::with_ring_pages(pages);
        let mut backend = front.connect(&memory_disk(8));
        assert_eq!(front.call(&mut backend, &read(1, 0, &[whole(0)])), Status::OKAY, "{pages} pages");
    }
    let ring_refs = vec![GrantRef(77)];
    let reason = connect(&front, &RingParameters { ring_refs, ..parameters.clone() });
    assert!(reason.contains("grants nothing by GrantRef(77)"), "{reason}");
    let port = pv_abi::EventPort(6);
    let reason = connect(&front, &RingParameters { port, ..parameters.clone() });
    assert!(reason.contains("offers no EventPort(6)"), "{reason}");
    front.host.grant(GUEST, RING).store_u32(REQ_PROD, 99).unwrap();
    assert!(connect(&front, &parameters).contains("produced 99"));
    assert_eq!((front.host.grant(GUEST, RING).times_mapped(), front.host.open_ports()), (0, 0));
}
