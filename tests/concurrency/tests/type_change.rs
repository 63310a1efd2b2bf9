//! A frame that was writable becomes a table while a pcpu still has it in its TLB: the shootdown and the frame's word
//! together.

use concurrency_tests::every_interleaving;
use concurrency_tests::frame::exchange::{change, exchange};
use concurrency_tests::frame::{Effect, FrameType, Operation, Word, step};
use concurrency_tests::presence::Presence;
use concurrency_tests::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use pv_abi::page_table::Level;
use shuttle::thread;
use std::sync::Arc;

const TABLE: FrameType = FrameType::Table(Level::L1);

/// A frame that one entry maps writable, and a pcpu that has used that entry.
struct Scene {
    word: AtomicU64,
    is_mapped: AtomicBool,
    presence: Presence,
}

impl Scene {
    fn new() -> Arc<Self> {
        let word = AtomicU64::new(Word::FREE.pack());
        for operation in [Operation::Allocate, Operation::Get, Operation::AcquireType(FrameType::Writable)] {
            exchange(&word, operation).unwrap();
        }
        exchange(&word, Operation::Get).unwrap(); // whoever wants it as a table
        Arc::new(Self { word, is_mapped: AtomicBool::new(true), presence: Presence::default() })
    }

    /// The pcpu goes into the guest, which writes if the TLB lets it. That knows the mapping until it is flushed.
    fn write(&self) {
        let is_cached = !self.presence.enter() || self.is_mapped.load(SeqCst);
        if is_cached {
            let met = Word::unpack(self.word.load(SeqCst));
            assert_ne!(met.kind, TABLE, "a write landed in a table");
        }
        self.presence.leave(true);
    }

    /// The pcpu's translation is gone, for certain. Waiting is tried a few times only: after that, nothing is given back.
    fn is_flushed(&self) -> bool {
        self.presence.ask_to_flush();
        (0..2).any(|_| !self.presence.may_be_stale())
    }

    /// The entry's reference goes back.
    fn release(&self) {
        let steps = |word| step(step(word, Operation::ReleaseType(FrameType::Writable))?.0, Operation::Put);
        change(&self.word, steps).unwrap();
    }

    /// Somebody else wants the frame as a table, and gets it once nobody can write it.
    fn make_table(&self) {
        if let Ok(effect) = exchange(&self.word, Operation::AcquireType(TABLE)) {
            assert_eq!(effect, Effect::Validate);
            exchange(&self.word, Operation::Validated).unwrap();
        }
    }
}

/// One pcpu writes, another unmaps the frame as `unmap` does it, a third makes it a table.
fn type_change(name: &'static str, unmap: fn(&Scene)) {
    every_interleaving(name, move || {
        let scene = Scene::new();
        let (writes, validates) = (Arc::clone(&scene), Arc::clone(&scene));
        let writer = thread::spawn(move || writes.write());
        let validator = thread::spawn(move || validates.make_table());
        scene.is_mapped.store(false, SeqCst);
        unmap(&scene);
        writer.join().unwrap();
        validator.join().unwrap();
    });
}

/// XSA class "type change against TLB and cache": the reference outlives the translation that it justified.
#[test]
fn no_write_lands_in_a_frame_that_has_become_a_table() {
    type_change("type change", |scene| {
        if scene.is_flushed() {
            scene.release();
        }
    });
}

/// The test above can fail: a reference that goes back before the flush is caught.
#[test]
#[should_panic(expected = "a write landed in a table")]
fn a_reference_released_before_the_flush_is_caught() {
    type_change("type change, released early", |scene| {
        scene.release();
        scene.is_flushed();
    });
}
