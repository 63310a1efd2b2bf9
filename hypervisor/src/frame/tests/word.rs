//! Every step from every word.

use crate::frame::FrameType::{Descriptors, Table};
use crate::frame::{Effect, FrameType, Operation, Phase, Word, step};
use pv_abi::Errno;

const OPERATIONS: [Operation; 11] = [
    Operation::Allocate,
    Operation::Deallocate,
    Operation::Get,
    Operation::Put,
    Operation::Validated,
    Operation::Abandon,
    Operation::Devalidated,
    Operation::Pin,
    Operation::Unpin,
    Operation::MakePermanent,
    Operation::DropPermanent,
];

fn operations() -> impl Iterator<Item = Operation> {
    let acquire = FrameType::ALL.into_iter().map(Operation::AcquireType);
    let release = FrameType::ALL.into_iter().map(Operation::ReleaseType);
    OPERATIONS.into_iter().chain(acquire).chain(release)
}

/// Every combination of flags, types and phases with counts at and next to their ends.
fn words() -> Vec<Word> {
    let counts = [0, 1, 2, 3, Word::MAX - 1, Word::MAX];
    let mut words = Vec::new();
    for general in counts {
        for uses in counts {
            for kind in FrameType::ALL {
                for phase in [Phase::Valid, Phase::Validating, Phase::Devalidating] {
                    for flags in 0..8 {
                        let (pinned, allocated, permanent) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                        words.push(Word { general, uses, kind, phase, pinned, allocated, permanent });
                    }
                }
            }
        }
    }
    words
}

#[test]
fn a_word_survives_packing() {
    for word in words() {
        assert_eq!(Word::unpack(word.pack()), word);
    }
    assert_eq!(Word::FREE.pack(), 0);
}

#[test]
fn every_step_from_every_word_keeps_the_invariants() {
    let mut done = 0;
    for word in words().into_iter().filter(|word| word.inconsistency().is_none()) {
        for operation in operations() {
            let Ok((after, effect)) = step(word, operation) else { continue };
            done += 1;
            let case = format!("{word:?} {operation:?} {after:?} {effect:?}");
            assert_eq!(after.inconsistency(), None, "{case}");
            check_counts(word, operation, after, effect, &case);
            check_type(word, operation, after, effect, &case);
        }
    }
    assert!(done > 1000, "the enumeration reached {done} steps only");
}

fn check_counts(word: Word, operation: Operation, after: Word, effect: Effect, case: &str) {
    let general = match operation {
        Operation::Allocate | Operation::Get => 1,
        Operation::Deallocate | Operation::Put => -1,
        _ => 0,
    };
    let uses = match (operation, effect) {
        (Operation::AcquireType(_), Effect::Resume) | (Operation::ReleaseType(_), Effect::Devalidate) => 0,
        (Operation::AcquireType(_), _) => 1,
        (Operation::ReleaseType(_), _) | (Operation::Devalidated, _) => -1,
        _ => 0,
    };
    assert_eq!(i64::from(after.general) - i64::from(word.general), general, "{case}");
    assert_eq!(i64::from(after.uses) - i64::from(word.uses), uses, "{case}");
    assert_eq!(effect == Effect::Freed, after == Word::FREE && word != Word::FREE, "{case}");
}

fn check_type(word: Word, operation: Operation, after: Word, effect: Effect, case: &str) {
    if after.kind != word.kind {
        assert!(word.uses == 0 || after.uses == 0, "a type changes through zero only: {case}");
    }
    let was_checked = word.phase == Phase::Valid && word.kind == after.kind;
    if after.phase == Phase::Valid && matches!(after.kind, Table(_) | Descriptors) {
        assert!(was_checked || operation == Operation::Validated, "validated by nothing else: {case}");
    }
    assert_eq!(effect == Effect::Validate, word.uses == 0 && after.phase == Phase::Validating, "{case}");
    if after.pinned != word.pinned {
        assert!(matches!(operation, Operation::Pin | Operation::Unpin), "{case}");
    }
}

#[test]
fn writable_and_table_exclude_each_other_in_both_directions() {
    let live = Word { general: 5, allocated: true, ..Word::FREE };
    for first in FrameType::ALL.into_iter().skip(1) {
        let (held, _) = step(live, Operation::AcquireType(first)).unwrap();
        for second in FrameType::ALL.into_iter().skip(1) {
            let outcome = step(held, Operation::AcquireType(second));
            assert_eq!(outcome.is_ok(), first == second, "{first:?} then {second:?}");
        }
    }
}

#[test]
fn counts_are_refused_at_their_end_and_never_wrap() {
    let full = Word { general: Word::MAX, allocated: true, ..Word::FREE };
    assert_eq!(step(full, Operation::Get).unwrap_err().errno, Errno::EOVERFLOW);
    assert!(step(Word::FREE, Operation::Put).is_err());
    assert!(step(Word::FREE, Operation::Get).is_err(), "a free frame cannot be referred to");
}

#[test]
fn a_frame_is_freed_by_its_last_reference_whichever_it_is() {
    let allocated = step(Word::FREE, Operation::Allocate).unwrap().0;
    assert_eq!(step(allocated, Operation::Deallocate).unwrap(), (Word::FREE, Effect::Freed));
    let shared = step(allocated, Operation::Get).unwrap().0;
    let orphan = step(shared, Operation::Deallocate).unwrap();
    assert_eq!(orphan.1, Effect::Nothing);
    assert!(step(orphan.0, Operation::Deallocate).is_err(), "giving back twice");
    assert_eq!(step(orphan.0, Operation::Put).unwrap(), (Word::FREE, Effect::Freed));
}
