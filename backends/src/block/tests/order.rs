//! Flushes and barriers, seen from the calls that are made.

use super::faulty::{Event, Fault, Faulty, Log};
use super::front::*;
use crate::block::image::RawImage;
use crate::block::{Backend, Disk};
use crate::driver::Device;
use crate::fake_host::FakeHost;
use pv_abi::io::block::{Operation, Status};
use std::fs::File;
use std::sync::Arc;

/// A disk on which writes take so many turns, and what was called.
fn slow(front: &Front, turns: u32) -> (Backend<FakeHost>, Log) {
    let (log, (_, disk)) = (Log::default(), file_disk(1024));
    let image = Arc::clone(disk.image());
    let backend = front.connect_with(&disk, |depth, bell| {
        let engine = By::Blocking.engine(image, depth, bell);
        Box::new(Faulty::new(engine, &log, move |event| {
            matches!(event, Event::Write(..) | Event::Flush).then_some(Fault::Stall(turns))
        }))
    });
    (backend, log)
}

fn barrier(id: u64, sector: u64, page: u32) -> pv_abi::io::block::Request {
    request(Operation::WRITE_BARRIER, id, sector, &[whole(page)])
}

/// One letter a call: w and r for those of data, f for flushes, in capitals when they end.
fn letters(log: &Log) -> String {
    let log = log.lock().unwrap();
    let letter = |event: &Event| match event {
        Event::Read(_) => 'r',
        Event::Write(..) => 'w',
        Event::Flush => 'f',
        Event::Discard(..) => 'd',
        Event::Done(_) => unreachable!(),
    };
    let each = |event: &Event| match event {
        Event::Done(of) => letter(&log[*of]).to_ascii_uppercase(),
        event => letter(event),
    };
    log.iter().map(each).collect()
}

/// A front-end may put a flush behind its writes without waiting for them: it covers them.
#[test]
fn a_flush_begins_when_all_writes_before_it_have_ended() {
    let mut front = Front::new();
    let (mut backend, log) = slow(&front, 30);
    front.ask_all((0..3).map(|id| write(id, id * 8, &[whole(0)])));
    front.ask(&flush(3));
    front.ask(&write(4, 64, &[whole(0)]));
    finish(&mut backend);
    let letters = letters(&log);
    assert_eq!(letters.find('f'), letters.rfind('f'), "one flush");
    assert_eq!(letters[..letters.find('f').unwrap()].matches('W').count(), 3, "{letters}");
    assert_eq!(front.answers().len(), 5);
}

/// Every flush that is acknowledged was one of the image, begun after it was asked for.
#[test]
fn a_flush_precedes_each_acknowledged_flush() {
    let mut front = Front::new();
    let (mut backend, log) = slow(&front, 2);
    for round in 1..20 {
        assert_eq!(front.call(&mut backend, &flush(round)), Status::OKAY);
        assert_eq!(letters(&log).matches('F').count(), round as usize);
    }
}

/// What the host says of its flush is what the front-end is told: there is none of `/dev/zero`.
#[test]
fn a_flush_is_the_hosts() {
    for by in ENGINES {
        let image = RawImage::new(File::open("/dev/zero").unwrap()).unwrap();
        let disk = Arc::new(Disk::new("zero", Arc::new(image), true));
        let mut front = Front::new();
        let mut backend = front.connect_by(&disk, by);
        assert_eq!(front.call(&mut backend, &flush(0)), Status::ERROR, "{by:?}");
        assert!(disk.failures().total().1.is_some_and(|last| last.contains("Invalid argument")), "{by:?}");
    }
}

#[test]
fn reads_and_writes_go_on_while_a_flush_takes_its_time() {
    let mut front = Front::new();
    let (mut backend, log) = slow(&front, 1000);
    front.ask(&flush(0));
    front.ask(&read(1, 0, &[whole(0)]));
    for _ in 0..20 {
        backend.serve().unwrap();
    }
    assert_eq!((front.answers(), &letters(&log)[..]), (vec![(1, Status::OKAY)], "frR"));
    backend.quiesce().unwrap();
    assert_eq!(front.answers(), [(0, Status::OKAY)]);
}

#[test]
fn nothing_passes_a_barrier() {
    let mut front = Front::new();
    let (mut backend, log) = slow(&front, 20);
    front.ask(&write(0, 0, &[whole(0)]));
    front.ask(&write(1, 8, &[whole(0)]));
    front.ask(&barrier(2, 16, 0));
    front.ask(&write(3, 24, &[whole(0)]));
    front.ask(&read(4, 32, &[whole(1)]));
    // A turn at a time, so that what stands behind the barrier can be taken while it is under way.
    for _ in 0..500 {
        backend.serve().unwrap();
    }
    assert_eq!(letters(&log), "wwWWfFwWfFwrRW");
    let ids: Vec<u64> = front.answers().iter().map(|answer| answer.0).collect();
    assert_eq!(ids, [0, 1, 2, 4, 3]);
}

#[test]
fn barriers_and_flushes_in_a_row_take_their_turns() {
    let mut front = Front::new();
    let (mut backend, log) = slow(&front, 3);
    front.ask(&barrier(0, 16, 0));
    front.ask(&request(Operation::WRITE_BARRIER, 1, 0, &[]));
    front.ask(&flush(2));
    front.ask(&barrier(3, 16, 0));
    front.ask(&flush(4));
    finish(&mut backend);
    assert_eq!(front.answers().len(), 5);
    assert_eq!(letters(&log).matches('F').count(), 2 + 1 + 1 + 2 + 1);
}

/// A discard changes the disk as a write does.
#[test]
fn a_flush_waits_for_discards() {
    let mut front = Front::new();
    let (mut backend, log) = slow(&front, 5);
    front.ask(&discard(0, 0, 8));
    front.ask(&flush(1));
    finish(&mut backend);
    assert_eq!(letters(&log), "dDfF");
}
