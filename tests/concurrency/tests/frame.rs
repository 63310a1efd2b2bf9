//! The word of a frame that several threads want.

use concurrency_tests::every_interleaving;
use concurrency_tests::frame::exchange::exchange;
use concurrency_tests::frame::{Effect, Operation, Word};
use concurrency_tests::sync::atomic::{AtomicU64, Ordering::SeqCst};
use hypervisor::frame::FrameType::{Table, Writable};
use hypervisor::frame::{FrameType, Phase};
use pv_abi::page_table::Level;
use shuttle::thread;
use std::sync::Arc;

const TABLE: FrameType = Table(Level::L1);

fn allocated() -> Arc<AtomicU64> {
    let word = AtomicU64::new(Word::FREE.pack());
    exchange(&word, Operation::Allocate).unwrap();
    Arc::new(word)
}

/// Takes a reference of a type, keeps it for a moment in which nobody may have another type, and gives it back.
fn use_as(word: &AtomicU64, kind: FrameType) -> bool {
    exchange(word, Operation::Get).unwrap();
    let taken = exchange(word, Operation::AcquireType(kind));
    if let Ok(effect) = taken {
        if effect == Effect::Validate {
            exchange(word, Operation::Validated).unwrap();
        }
        assert_eq!(Word::unpack(word.load(SeqCst)).kind, kind);
        if exchange(word, Operation::ReleaseType(kind)).unwrap() == Effect::Devalidate {
            exchange(word, Operation::Devalidated).unwrap();
        }
    }
    exchange(word, Operation::Put).unwrap();
    taken.is_ok()
}

/// XSA class "type change against TLB and cache": never writable and a table at once.
#[test]
fn two_threads_never_have_a_frame_as_two_types() {
    every_interleaving("two types", || {
        let word = allocated();
        let other = Arc::clone(&word);
        let writer = thread::spawn(move || use_as(&other, Writable));
        let as_table = use_as(&word, TABLE);
        let as_page = writer.join().unwrap();
        assert!(as_table || as_page, "one of the two was first");
        let left = Word::unpack(word.load(SeqCst));
        let fresh = Word { general: 1, allocated: true, ..Word::FREE };
        assert_eq!(left, fresh, "all references came back");
    });
}

/// XSA class "freed before the last mapping is gone": it is freed once, by whoever gives the last reference back.
#[test]
fn the_last_reference_is_the_last_exactly_once() {
    every_interleaving("last reference", || {
        let word = allocated();
        exchange(&word, Operation::Get).unwrap();
        let other = Arc::clone(&word);
        let holder = thread::spawn(move || exchange(&other, Operation::Put).unwrap());
        let late = Arc::clone(&word);
        let comer = thread::spawn(move || match exchange(&late, Operation::Get) {
            Ok(_) => Some(exchange(&late, Operation::Put).unwrap()),
            Err(_) => None, // it was free by then
        });
        let owner = exchange(&word, Operation::Deallocate).unwrap();
        let outcomes = [Some(owner), Some(holder.join().unwrap()), comer.join().unwrap()];
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Some(Effect::Freed)).count(), 1);
        assert_eq!(word.load(SeqCst), Word::FREE.pack());
    });
}

/// A writer that comes while a frame is being validated is refused, and finds no valid table without its type.
#[test]
fn nobody_writes_a_table_that_is_being_validated() {
    every_interleaving("validation", || {
        let word = allocated();
        let other = Arc::clone(&word);
        let writer = thread::spawn(move || use_as(&other, Writable));
        exchange(&word, Operation::Get).unwrap();
        let taken = exchange(&word, Operation::AcquireType(TABLE));
        if taken == Ok(Effect::Validate) {
            let now = Word::unpack(word.load(SeqCst));
            assert_eq!((now.kind, now.phase, now.uses), (TABLE, Phase::Validating, 1));
            exchange(&word, Operation::Abandon).unwrap();
            assert_eq!(Word::unpack(word.load(SeqCst)).kind, TABLE, "until its references went back");
            exchange(&word, Operation::Devalidated).unwrap();
        }
        writer.join().unwrap();
    });
}
