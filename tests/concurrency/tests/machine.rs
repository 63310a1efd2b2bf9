//! A pcpu that goes in and out of guests, and others that change tables and kick it.

use concurrency_tests::every_interleaving;
use concurrency_tests::presence::Presence;
use concurrency_tests::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use shuttle::thread;
use std::sync::Arc;

const OLD: u64 = 1;
const NEW: u64 = 2;

/// A pcpu, a table with one entry, and whether whoever changed that was told that nobody uses the old one.
struct Scene {
    presence: Presence,
    entry: AtomicU64,
    settled: AtomicBool,
}

/// The pcpu: in and out twice, each time with one access through what it has cached. It keeps that until it is told
/// to flush; `interrupted` is an entry that ends before the root is loaded.
fn pcpu(scene: &Scene, interrupted: bool) {
    let mut cached = OLD;
    for round in 0..2 {
        let flush = scene.presence.enter();
        if interrupted && round == 0 {
            scene.presence.leave(!flush);
            continue;
        }
        if flush {
            cached = scene.entry.load(SeqCst);
        }
        let settled = scene.settled.load(SeqCst);
        assert!(!settled || cached == NEW, "an access succeeded after the change was settled");
        scene.presence.leave(true);
    }
}

/// Whoever changes the entry. Waiting is tried a few times only: what is not settled promises nothing.
fn change(scene: &Scene, ask: impl Fn(&Presence) -> bool) {
    scene.entry.store(NEW, SeqCst);
    let mut stale = ask(&scene.presence);
    for _ in 0..2 {
        stale = stale && scene.presence.may_be_stale();
    }
    scene.settled.store(!stale, SeqCst);
}

fn shootdown(interrupted: bool, ask: impl Fn(&Presence) -> bool + Clone + Send + Sync + 'static) {
    every_interleaving("shootdown", move || {
        let (entry, settled) = (AtomicU64::new(OLD), AtomicBool::new(false));
        let scene = Arc::new(Scene { presence: Presence::default(), entry, settled });
        let theirs = Arc::clone(&scene);
        let runs = thread::spawn(move || pcpu(&theirs, interrupted));
        change(&scene, ask.clone());
        runs.join().unwrap();
    });
}

fn ask_then_look(presence: &Presence) -> bool {
    presence.ask_to_flush();
    presence.may_be_stale()
}

#[test]
fn no_access_succeeds_after_a_change_was_settled() {
    shootdown(false, ask_then_look);
    shootdown(true, ask_then_look);
}

/// The test above can fail: an initiator that does not look, or looks first, is caught.
#[test]
#[should_panic(expected = "after the change was settled")]
fn an_initiator_that_does_not_wait_is_caught() {
    shootdown(false, |presence| {
        presence.ask_to_flush();
        false
    });
}

#[test]
#[should_panic(expected = "after the change was settled")]
fn an_initiator_that_looks_before_it_asks_is_caught() {
    shootdown(false, |presence| {
        let stale = presence.may_be_stale();
        presence.ask_to_flush();
        stale
    });
}

/// Two initiators at once: each may rely on the flush that the other asked for.
#[test]
fn two_initiators_share_a_pcpu() {
    every_interleaving("two initiators", || {
        let (entry, settled) = (AtomicU64::new(OLD), AtomicBool::new(false));
        let scene = Arc::new(Scene { presence: Presence::default(), entry, settled });
        let (runner, second) = (Arc::clone(&scene), Arc::clone(&scene));
        let flusher = thread::spawn(move || second.presence.ask_to_flush());
        let runs = thread::spawn(move || {
            let cached = if runner.presence.enter() { runner.entry.load(SeqCst) } else { OLD };
            assert!(!runner.settled.load(SeqCst) || cached == NEW, "after the change was settled");
            runner.presence.leave(true);
        });
        scene.entry.store(NEW, SeqCst);
        let stale = ask_then_look(&scene.presence);
        scene.settled.store(!stale, SeqCst);
        flusher.join().unwrap();
        runs.join().unwrap();
    });
}

/// A kick is never lost: the pcpu does not get in, or is interrupted there. A signal that comes before KVM_RUN does
/// nothing but run its empty handler.
#[test]
fn no_kick_is_lost() {
    every_interleaving("kick", || {
        let presence = Arc::new(Presence::default());
        let (flag, signal) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicBool::new(false)));
        let (theirs, seen, pending) = (Arc::clone(&presence), Arc::clone(&flag), Arc::clone(&signal));
        let pcpu = thread::spawn(move || {
            theirs.enter();
            pending.store(false, SeqCst); // delivered while still outside
            seen.load(SeqCst) == 0 // in the guest until the signal comes
        });
        presence.kick(&flag, || signal.store(true, SeqCst));
        let in_guest = pcpu.join().unwrap();
        assert!(!in_guest || signal.load(SeqCst), "the guest runs on for ever");
    });
}
