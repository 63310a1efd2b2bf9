//! The only function that changes a frame's word: pure, so that a test can try every step from every word.
//!
//! States. A frame is *free* (all zero), or *live* with a general count and a type. Its type goes
//!
//! ```text
//!            AcquireType(Writable)                    ReleaseType (last)
//!   None ─────────────────────────────▶ Writable ─────────────────────────▶ None
//!   None ── AcquireType(Table|Descriptors) ─▶ Validating ── Validated ─▶ Valid ── ReleaseType (last) ─┐
//!    ▲                                            └──────── Abandon ───────┐                          │
//!    └──────────────────── Devalidated ◀──────────────────────────── Devalidating ◀──────────────────┘
//! ```
//!
//! Guarded by `frame::tests::word`.

use super::FrameType::{Descriptors, Table, Writable};
use super::{FrameType, Phase, Word};
use crate::error::Refusal;
use pv_abi::Errno;

/// What may happen to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A free frame gets an owner.
    Allocate,
    /// Its owner gives it back; it is free once the last reference is gone.
    Deallocate,
    /// One general reference more.
    Get,
    /// One general reference less.
    Put,
    /// One type reference more; the caller holds a general reference to go with it.
    AcquireType(FrameType),
    /// One type reference less; the general one that went with it stays the caller's.
    ReleaseType(FrameType),
    /// The contents are checked to the end.
    Validated,
    /// The contents are bad, or nobody wants them any more.
    Abandon,
    /// All references of the contents are given back.
    Devalidated,
    /// The pin takes over a type reference of the caller's.
    Pin,
    /// The pin's type reference becomes the caller's.
    Unpin,
    /// The mark takes over a writable reference of the caller's.
    MakePermanent,
    /// The mark's reference becomes the caller's.
    DropPermanent,
}

/// What the caller of [`step`] has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing follows from the operation.
    Nothing,
    /// Check the contents from the start. The references just taken belong to that work until it is done.
    Validate,
    /// Go on checking where another call was interrupted. No reference was taken: the work has its own, and they
    /// become the caller's when it is done.
    Resume,
    /// Give back what the contents refer to. The reference just released belongs to that work until then.
    Devalidate,
    /// The last reference is gone: the frame is free, and its owner is to be forgotten.
    Freed,
}

const fn refused<T>(errno: Errno, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::new(errno, why))
}

/// Carries out one operation on a frame's word, or says why not.
///
/// # Errors
/// The reason; nothing has happened then. Where it is an operation that gives something back, the reason is a
/// defect of the hypervisor and not of a guest.
#[inline] // its callers name the operation: what remains of it there is a few instructions
pub fn step(word: Word, operation: Operation) -> Result<(Word, Effect), Refusal> {
    match operation {
        Operation::Allocate => allocate(word),
        Operation::Deallocate if !word.allocated => refused(Errno::EINVAL, "the frame was given back before"),
        Operation::Deallocate => put(Word { allocated: false, ..word }),
        Operation::Get => get(word),
        Operation::Put => put(word),
        Operation::AcquireType(kind) => acquire_type(word, kind),
        Operation::ReleaseType(kind) => release_type(word, kind),
        Operation::Validated => from_phase(word, Phase::Validating, Phase::Valid),
        Operation::Abandon => from_phase(word, Phase::Validating, Phase::Devalidating),
        Operation::Devalidated => devalidated(word),
        Operation::Pin => pin(word),
        Operation::Unpin if !word.pinned => refused(Errno::EINVAL, "the table is not pinned"),
        Operation::Unpin => Ok((Word { pinned: false, ..word }, Effect::Nothing)),
        Operation::MakePermanent if word.kind != Writable || word.permanent => {
            refused(Errno::EINVAL, "the frame is not writable, or permanent already")
        }
        Operation::MakePermanent => Ok((Word { permanent: true, ..word }, Effect::Nothing)),
        Operation::DropPermanent if !word.permanent => refused(Errno::EINVAL, "the frame is not permanent"),
        Operation::DropPermanent => Ok((Word { permanent: false, ..word }, Effect::Nothing)),
    }
}

fn allocate(word: Word) -> Result<(Word, Effect), Refusal> {
    if word != Word::FREE {
        return refused(Errno::EBUSY, "the frame is not free");
    }
    Ok((Word { general: 1, allocated: true, ..word }, Effect::Nothing))
}

fn get(word: Word) -> Result<(Word, Effect), Refusal> {
    match word.general {
        0 => refused(Errno::EINVAL, "the frame is free"),
        Word::MAX => refused(Errno::EOVERFLOW, "the frame has too many references"),
        general => Ok((Word { general: general.saturating_add(1), ..word }, Effect::Nothing)),
    }
}

/// Gives a general reference back that no type reference, nor being allocated, still needs.
fn put(word: Word) -> Result<(Word, Effect), Refusal> {
    if word.general <= word.accounted() {
        return refused(Errno::EINVAL, "nobody holds the reference that is given back");
    }
    let general = word.general.saturating_sub(1);
    Ok((Word { general, ..word }, if general == 0 { Effect::Freed } else { Effect::Nothing }))
}

fn acquire_type(word: Word, kind: FrameType) -> Result<(Word, Effect), Refusal> {
    if kind == FrameType::None {
        return refused(Errno::EINVAL, "there is no reference of no type");
    }
    if word.uses != 0 && word.kind != kind {
        return conflict(word.kind, kind);
    }
    match word.phase {
        Phase::Devalidating => return refused(Errno::EAGAIN, "the frame is ceasing to be a table"),
        Phase::Validating => return Ok((word, Effect::Resume)),
        Phase::Valid => {}
    }
    if word.general <= word.accounted() {
        return refused(Errno::EINVAL, "a type reference without a general one");
    }
    let uses = word.uses.saturating_add(1); // it stays at or below `general`
    if word.uses == 0 && kind != Writable {
        return Ok((Word { uses, kind, phase: Phase::Validating, ..word }, Effect::Validate));
    }
    Ok((Word { uses, kind, ..word }, Effect::Nothing))
}

fn conflict<T>(present: FrameType, wanted: FrameType) -> Result<T, Refusal> {
    match (present, wanted) {
        (Writable, _) => refused(Errno::EINVAL, "the frame is mapped writable somewhere"),
        (Table(_), Writable) => refused(Errno::EBUSY, "a page table cannot be writable"),
        (Descriptors, Writable) => refused(Errno::EBUSY, "a descriptor table cannot be writable"),
        (Table(a), Table(b)) if a == b => refused(Errno::EBUSY, "the table is in use"),
        (Table(_), Table(_)) => refused(Errno::EINVAL, "the frame is a page table of another level"),
        _ => refused(Errno::EINVAL, "the frame is in use as another type"),
    }
}

fn release_type(word: Word, kind: FrameType) -> Result<(Word, Effect), Refusal> {
    if word.uses == 0 || word.kind != kind || word.phase != Phase::Valid {
        return refused(Errno::EINVAL, "nobody holds the type reference that is given back");
    }
    if word.uses > 1 {
        return Ok((Word { uses: word.uses.saturating_sub(1), ..word }, Effect::Nothing));
    }
    if word.pinned || word.permanent {
        return refused(Errno::EINVAL, "the last type reference is the pin's");
    }
    if let Table(_) = kind {
        return Ok((Word { phase: Phase::Devalidating, ..word }, Effect::Devalidate));
    }
    Ok((Word { uses: 0, kind: FrameType::None, ..word }, Effect::Nothing))
}

fn from_phase(word: Word, from: Phase, to: Phase) -> Result<(Word, Effect), Refusal> {
    if word.phase != from {
        return refused(Errno::EINVAL, "the frame's contents are not being validated");
    }
    Ok((Word { phase: to, ..word }, Effect::Nothing))
}

fn devalidated(word: Word) -> Result<(Word, Effect), Refusal> {
    if word.phase != Phase::Devalidating {
        return refused(Errno::EINVAL, "the frame's contents are not being devalidated");
    }
    Ok((Word { uses: 0, kind: FrameType::None, phase: Phase::Valid, ..word }, Effect::Nothing))
}

fn pin(word: Word) -> Result<(Word, Effect), Refusal> {
    if word.pinned {
        return refused(Errno::EINVAL, "the table is pinned already");
    }
    if word.kind.level().is_none() || word.phase != Phase::Valid {
        return refused(Errno::EINVAL, "the frame is not a valid table");
    }
    Ok((Word { pinned: true, ..word }, Effect::Nothing))
}
