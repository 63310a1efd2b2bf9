//! Frames as a whole: owners, reuse, conservation, and threads that race for a type.

use crate::frame::{FrameTable, FrameType, Operation, Word};
use crate::machine::fake::FakeMachine;
use crate::testing::{defects_told, meanwhile};
use pv_abi::{DomId, Errno, Mfn, Pfn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const A: DomId = DomId(1);
const B: DomId = DomId(2);

fn table() -> (FrameTable, FakeMachine) {
    let machine = FakeMachine::new(64);
    (FrameTable::new(Arc::clone(&machine.memory), &machine.layout), machine)
}

#[test]
fn a_frame_is_found_by_its_owner_only() {
    let (frames, machine) = table();
    let mfn = frames.allocate(A).unwrap();
    assert_eq!(frames.get(B, mfn).unwrap_err().why, "the frame belongs to another domain");
    assert_eq!(frames.get(A, Mfn(0)).unwrap_err().why, "the frame is the hypervisor's");
    assert_eq!(frames.get(A, Mfn(machine.layout.frames)).unwrap_err().why, "the machine has no such frame");
    assert_eq!(frames.get(A, Mfn(u64::MAX)).unwrap_err().why, "the machine has no such frame");
    assert_eq!(frames.get(A, Mfn(mfn.0 + 1)).unwrap_err().why, "the frame is free");
    let reference = frames.get(A, mfn).unwrap();
    assert_eq!(frames.word(mfn).general, 2, "refusals left no reference behind");
    assert_eq!(frames.give_back(reference), None);
}

#[test]
fn a_reused_frame_is_scrubbed() {
    let (frames, machine) = table();
    let mfn = frames.allocate(A).unwrap();
    machine.memory.write(mfn, 100, b"secret").unwrap();
    frames.m2p().set(mfn, Pfn(7));
    frames.deallocate(A, mfn).unwrap();
    assert_eq!((frames.owner(mfn), frames.m2p().get(mfn)), (None, Pfn::INVALID));
    assert_eq!(frames.allocate(B).unwrap(), mfn, "the frame that came back goes first");
    let mut bytes = [1; 6];
    machine.memory.read(mfn, 100, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 6]);
}

/// XSA class "freed before the last mapping is gone".
#[test]
fn a_frame_given_back_stays_its_owners_until_the_last_reference_goes() {
    let (frames, _machine) = table();
    let mfn = frames.allocate(A).unwrap();
    let held = frames.get(A, mfn).and_then(|general| frames.into_writable(general)).unwrap();
    frames.deallocate(A, mfn).unwrap();
    assert!(frames.deallocate(A, mfn).is_err(), "twice");
    assert_eq!((frames.owner(mfn), frames.owned_by(A)), (Some(A), 1));
    assert_eq!(frames.give_back(held), None);
    assert_eq!((frames.owner(mfn), frames.owned_by(A)), (None, 0));
}

#[test]
fn a_reference_that_nobody_had_is_told_as_a_defect_and_frees_nothing() {
    for typed in [false, true] {
        let (frames, _machine) = table();
        let mfn = frames.allocate(A).unwrap();
        let general = frames.get(A, mfn).unwrap();
        let held = if typed { frames.into_writable(general).unwrap() } else { general };
        // Behind its back.
        if typed {
            frames.apply(mfn, Operation::ReleaseType(FrameType::Writable)).unwrap();
        } else {
            frames.deallocate(A, mfn).unwrap();
            frames.apply(mfn, Operation::Put).unwrap();
        }
        let before = frames.word(mfn);
        let told = defects_told(|| assert_eq!(frames.give_back(held), None));
        assert_eq!((told, frames.word(mfn)), (vec!["reference count defect".to_owned()], before), "{typed}");
    }
}

#[test]
fn a_writable_reference_is_the_owners_only_and_leaves_no_trace_where_it_is_refused() {
    let frames = Arc::new(table().0);
    let mfn = frames.allocate(A).unwrap();
    let untouched = frames.word(mfn);
    let owners = Arc::clone(&frames);
    // Between its two steps.
    meanwhile(move || {
        meanwhile(move || assert_eq!(owners.word(mfn).kind, FrameType::None, "in its owner's way"))
    });
    assert_eq!(frames.get_writable(B, mfn).unwrap_err().errno, Errno::EPERM);
    let table = frames.get(A, mfn).unwrap();
    frames.apply(mfn, Operation::AcquireType(FrameType::Descriptors)).unwrap();
    let refused = frames.word(mfn);
    assert_eq!(frames.get_writable(A, mfn).unwrap_err().errno, Errno::EBUSY);
    assert_eq!(frames.word(mfn), refused);
    frames.apply(mfn, Operation::Validated).unwrap();
    frames.apply(mfn, Operation::ReleaseType(FrameType::Descriptors)).unwrap();
    frames.put(table);
    let writable = frames.get_writable(A, mfn).unwrap();
    let held = Word { general: 2, uses: 1, kind: FrameType::Writable, ..untouched };
    assert_eq!(frames.word(mfn), held);
    frames.deallocate(A, mfn).unwrap();
    assert_eq!(frames.give_back(writable), None);
    assert_eq!(frames.owner(mfn), None, "the last reference frees it");
}

/// XSA class "ownership transfer": between a look at the frame and the reference it becomes another domain's.
#[test]
fn a_frame_that_changes_hands_is_had_by_its_owner_only() {
    let frames = Arc::new(table().0);
    let get = |mfn| frames.get(A, mfn);
    let get_writable = |mfn| frames.get_writable(A, mfn);
    for take in [&get as &dyn Fn(Mfn) -> _, &get_writable] {
        let mfn = frames.allocate(A).unwrap();
        let theirs = Arc::clone(&frames);
        meanwhile(move || {
            theirs.deallocate(A, mfn).unwrap();
            assert_eq!(theirs.allocate(B), Ok(mfn));
        });
        assert_eq!(take(mfn).unwrap_err().why, "the frame belongs to another domain");
        assert_eq!(
            frames.word(mfn),
            Word { general: 1, allocated: true, ..Word::FREE },
            "no reference is left"
        );
        frames.deallocate(B, mfn).unwrap();
    }
}

#[test]
fn frames_are_conserved_and_run_out() {
    let (frames, machine) = table();
    let start = frames.conservation();
    assert_eq!(start.total, start.free + start.owned);
    let taken: Vec<_> = std::iter::from_fn(|| frames.allocate(A).ok()).collect();
    assert_eq!(taken.len() as u64, machine.layout.frames - machine.layout.first_free.0);
    assert_eq!(frames.allocate(A).unwrap_err().errno, Errno::ENOMEM);
    taken.into_iter().for_each(|mfn| frames.deallocate(A, mfn).unwrap());
    assert_eq!(frames.conservation(), start);
}

/// Whoever holds a frame in one role keeps it out of the other, whatever the threads do.
#[test]
fn racing_types_exclude_each_other() {
    let (frames, _machine) = table();
    let mfn = frames.allocate(A).unwrap();
    let writers = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let general = frames.get(A, mfn).unwrap();
                    if let Ok(writable) = frames.into_writable(general) {
                        writers.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(frames.word(mfn).kind, FrameType::Writable);
                        writers.fetch_sub(1, Ordering::SeqCst);
                        assert_eq!(frames.give_back(writable), None);
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..2000 {
                let general = frames.get(A, mfn).unwrap();
                if frames.apply(mfn, Operation::AcquireType(FrameType::Descriptors)).is_ok() {
                    assert_eq!(writers.load(Ordering::SeqCst), 0);
                    frames.apply(mfn, Operation::Validated).unwrap();
                    frames.apply(mfn, Operation::ReleaseType(FrameType::Descriptors)).unwrap();
                }
                frames.put(general);
            }
        });
    });
    assert_eq!(frames.word(mfn), Word { general: 1, allocated: true, ..Word::FREE });
}

/// A frame is free when nothing of its last owner is left to be done: whoever gets it next has it alone.
#[test]
fn frames_change_hands_between_threads() {
    let (frames, _machine) = table();
    let turns = |own| {
        for turn in 0..2_000_000 {
            let mfn = frames.allocate(own).unwrap();
            assert_eq!(frames.owner(mfn), Some(own), "turn {turn}");
            let held = frames.get(own, mfn).unwrap();
            frames.deallocate(own, mfn).unwrap();
            assert_eq!(frames.give_back(held), None);
        }
    };
    std::thread::scope(|scope| {
        for own in [A, B] {
            scope.spawn(move || turns(own));
        }
    });
    assert_eq!((frames.owned_by(A), frames.owned_by(B)), (0, 0));
}
