//! The back-end on a thread of its own, and a front-end that sleeps when it has nothing to do: nobody is forgotten.

use super::front::*;
use super::random::Random;
use crate::driver::{Device, serve_until};
use pv_abi::io::block::Status;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// As the hypervisor does: the back-end's notifications arrive as a count that grows.
fn wait_for_notification(front: &Front, seen: &mut usize) {
    let start = std::time::Instant::now();
    while front.host.notifications(GUEST, PORT) == *seen {
        assert!(start.elapsed() < Duration::from_secs(60), "the back-end does not notify");
        std::thread::yield_now();
    }
    *seen = front.host.notifications(GUEST, PORT);
}

fn play(by: By, sleepy: bool) {
    let mut front = Front::new();
    let (_file, disk) = file_disk(4096);
    let mut backend = front.connect_by(&disk, by);
    let (stop, bell) = (&AtomicBool::new(false), std::sync::Arc::clone(&front.bell));
    std::thread::scope(|scope| {
        let serving = scope.spawn(move || {
            serve_until(&mut backend, &bell, &|| stop.load(Ordering::SeqCst)).and_then(|()| backend.quiesce())
        });
        let (mut random, mut seen, mut answered) = (Random::new(5), 0, 0u64);
        for round in 0..if sleepy { 60 } else { 600 } {
            let count = 1 + random.below(32);
            let mut notify = false;
            for id in 0..count {
                notify |= front.ask(&read(id, random.below(500) * 8, &[whole(random.below(100) as u32)]));
            }
            if notify {
                front.host.notify_backend(GUEST, PORT);
            }
            let mut left = count;
            while left != 0 {
                let answers = front.answers();
                assert!(answers.iter().all(|answer| answer.1 == Status::OKAY));
                left -= answers.len() as u64;
                answered += answers.len() as u64;
                if left != 0 && answers.is_empty() && !front.ring.ask_for_notification().unwrap() {
                    wait_for_notification(&front, &mut seen);
                }
            }
            if sleepy && round % 3 == 0 {
                std::thread::sleep(Duration::from_millis(2)); // the back-end loses its patience
            }
        }
        stop.store(true, Ordering::SeqCst);
        front.bell.ring();
        serving.join().unwrap().unwrap();
        assert!(answered > 0);
    });
    assert_eq!(front.host.open_ports(), 0, "the device was dropped");
}

#[test]
fn no_request_and_no_answer_is_slept_through() {
    for by in ENGINES {
        play(by, true);
        play(by, false);
    }
}

/// What was begun is finished and answered; what was not yet taken stays in the ring.
#[test]
fn a_back_end_that_is_stopped_answers_what_it_has_taken() {
    for by in ENGINES {
        let mut front = Front::new();
        let (_file, disk) = file_disk(4096);
        let mut backend = front.connect_by(&disk, by);
        front.ask_all((0..32).map(|id| read(id, 0, &[whole(0)])));
        backend.serve().unwrap();
        serve_until(&mut backend, &front.bell, &|| true).unwrap();
        backend.quiesce().unwrap();
        assert_eq!(backend.unanswered(), 0);
        assert!(!front.answers().is_empty());
    }
}
