//! Crash consistency: what an image holds when the power goes, replayed from the calls that were made on it.
//!
//! Of the writes that had been made when the last flush began, all are there. Of the later ones, each may be there or
//! not, whatever the order. So the log of calls is cut at every flush that was acknowledged and at random places between,
//! random subsets of the unprotected writes are applied, and what a front-end was promised must be there.

use super::faulty::{Event, Fault, Faulty, Log};
use super::front::*;
use super::random::Random;
use crate::driver::Device;
use pv_abi::PAGE_SIZE;
use pv_abi::io::block::{Operation, Status};
use std::collections::HashMap;
use std::sync::Arc;

const PLACES: u64 = 16;

/// What the front-end knew, and how long the log of calls was then.
struct Promise {
    at: usize,
    /// By place: the oldest version that may be there from now on.
    versions: [u8; PLACES as usize],
}

struct Run {
    log: Vec<Event>,
    promises: Vec<Promise>,
    rounds: u8,
}

/// Writes versions 1, 2, … of whole pages to places, several at a time but never two to one place, with flushes and
/// barriers among them.
fn run(by: By, seed: u64) -> Run {
    let mut random = Random::new(seed);
    let (mut front, log) = (Front::new(), Log::default());
    let (_file, disk) = file_disk(PLACES * 8);
    let (image, mut dice) = (Arc::clone(disk.image()), Random::new(!seed));
    let fault = move |_: &Event| match dice.below(4) {
        0 => Some(Fault::Stall(dice.below(12) as u32)),
        1 => Some(Fault::Short(512 * (1 + dice.below(9) as usize))),
        _ => None,
    };
    let mut backend = front
        .connect_with(&disk, |depth, bell| Box::new(Faulty::new(by.engine(image, depth, bell), &log, fault)));
    let mut put = [0; PLACES as usize];
    let (mut busy, mut flushes, mut promises) = (HashMap::new(), HashMap::new(), Vec::new());
    for id in 1..=200 {
        let place = random.below(PLACES);
        if !busy.values().any(|(busy, _)| *busy == place) {
            let version = id as u8;
            front.fill(place as u32, version);
            put[place as usize] = version;
            let operation = if random.once_in(9) { Operation::WRITE_BARRIER } else { Operation::WRITE };
            front.ask(&request(operation, id, place * 8, &[whole(place as u32)]));
            busy.insert(id, (place, version));
            if operation == Operation::WRITE_BARRIER {
                flushes.insert(id, put);
            }
        }
        if random.once_in(5) {
            front.ask(&flush(1000 + id));
            flushes.insert(1000 + id, put);
        }
        let mut turns = random.below(6);
        while turns > 0 || front.ring.room() < 2 {
            backend.serve().unwrap();
            turns = turns.saturating_sub(1);
            answers(&mut front, &log, &mut busy, &mut flushes, &mut promises);
        }
    }
    finish(&mut backend);
    answers(&mut front, &log, &mut busy, &mut flushes, &mut promises);
    let log = log.lock().unwrap().clone();
    Run { log, promises, rounds: 8 }
}

fn answers(
    front: &mut Front,
    log: &Log,
    busy: &mut HashMap<u64, (u64, u8)>,
    flushes: &mut HashMap<u64, [u8; PLACES as usize]>,
    promises: &mut Vec<Promise>,
) {
    for (id, status) in front.answers() {
        assert_eq!(status, Status::OKAY);
        busy.remove(&id);
        if let Some(versions) = flushes.remove(&id) {
            promises.push(Promise { at: log.lock().unwrap().len(), versions });
        }
    }
}

/// The image after a crash when the log had `length` events: `survives` is asked of each write that no flush protects.
fn image_after(log: &[Event], length: usize, mut survives: impl FnMut() -> bool) -> Vec<u8> {
    let log = &log[..length];
    let done_at = |event: usize| log.iter().position(|other| *other == Event::Done(event));
    let flush = |event: &usize| log[*event] == Event::Flush && done_at(*event).is_some();
    let last_flush = (0..length).filter(flush).max().unwrap_or(0);
    let mut image = vec![0; PLACES as usize * PAGE_SIZE];
    for (event, write) in log.iter().enumerate() {
        let Event::Write(offset, bytes) = write else { continue };
        let protected = done_at(event).is_some_and(|done| done < last_flush);
        if protected || survives() {
            image[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }
    image
}

fn check(run: &Run, length: usize, random: &mut Random) {
    let promised = run.promises.iter().rfind(|promise| promise.at <= length);
    let oldest = promised.map_or([0; PLACES as usize], |promise| promise.versions);
    for round in 0..run.rounds {
        let image = image_after(&run.log, length, || match round {
            0 => false,
            1 => true,
            _ => random.once_in(2),
        });
        for (place, (page, oldest)) in image.chunks(PAGE_SIZE).zip(oldest).enumerate() {
            // A torn page has sectors of several versions: each sector counts.
            for sector in page.chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "torn within a sector");
                assert!(sector[0] >= oldest, "place {place} at {length}: {} after {oldest}", sector[0]);
            }
        }
    }
}

#[test]
fn what_was_promised_survives_at_every_flush_and_between() {
    let (mut boundaries, mut random) = (0, Random::new(99));
    for by in ENGINES {
        for seed in 0..8 {
            let run = run(by, seed);
            for promise in &run.promises {
                check(&run, promise.at, &mut random);
            }
            for _ in 0..60 {
                check(&run, random.below(run.log.len() as u64 + 1) as usize, &mut random);
            }
            boundaries += run.promises.len();
        }
    }
    assert!(boundaries > 500, "{boundaries}");
}

/// The check is worth something: a log without its flushes fails it.
#[test]
fn flushes_that_are_left_out_are_noticed() {
    let mut run = run(By::Blocking, 1);
    for event in &mut run.log {
        if *event == Event::Flush {
            *event = Event::Read(0);
        }
    }
    let length = run.log.len();
    let caught = std::panic::catch_unwind(|| check(&run, length, &mut Random::new(1)));
    assert!(caught.is_err());
}
