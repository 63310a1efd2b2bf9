//! All frames of the machine: a word, an owner and a progress mark each.
//!
//! Invariants:
//! - a word changes by [`super::step`] only, in one compare-exchange (guarded by `frame::tests::word`);
//! - the owner is set while the frame is free and nobody can see it, and read only under a general reference;
//!   so [`FrameTable::get`] refers first and looks at the owner then, and a frame that changed hands in between is
//!   refused (guarded by `frame::tests::table::a_frame_is_found_by_its_owner_only`);
//! - live and free frames add up to the machine ([`FrameTable::conservation`], checked by every audit);
//! - a frame is in the list of its owner, or of free ones, until its owner dies (`frame::lists::tests`; every audit);
//! - a frame is zero when it is allocated (guarded by `frame::tests::table::a_reused_frame_is_scrubbed`).
//!
//! Locks: that of the lists, a leaf. Words are atomics because frames cross domains; whatever needs more than one
//! word is under the lock of the owner's page tables, see [`crate::paging`].

use super::exchange::{change, exchange};
use super::lists::{FrameLists, FreeFrame};
use super::{Effect, FrameType, MachineToPhys, Operation, Reference, ReferenceKind, Word, step};
use crate::error::Refusal;
use crate::lock::{Rank, Ranked};
use crate::machine::{Layout, MachineMemory};
use pv_abi::{DomId, Errno, Mfn, Pfn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use zerocopy::FromZeros;

/// What the frame table knows of one frame.
#[derive(Debug, FromZeros)]
#[repr(C)]
pub(super) struct Record {
    pub(super) word: AtomicU64,
    pub(super) owner: AtomicU16,
    /// Entries of a table, from 0 up, which hold references while it is validated or devalidated. Written only
    /// under the owner's paging lock.
    pub(super) progress: AtomicU16,
}

/// How many frames are free and how many are owned; together they must be all of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conservation {
    /// Frames of the machine.
    pub total: u64,
    /// Frames that nobody owns.
    pub free: u64,
    /// Owned by somebody, the hypervisor included.
    pub owned: u64,
}

/// What is known of all frames of the machine.
#[derive(Debug)]
pub struct FrameTable {
    pub(super) records: Vec<Record>,
    pub(super) owned: Vec<AtomicU32>,
    pub(super) lists: Ranked<FrameLists>,
    m2p: MachineToPhys,
    memory: Arc<MachineMemory>,
}

impl FrameTable {
    /// All frames below `layout.first_free` are the hypervisor's, for ever; the others are free.
    ///
    /// # Panics
    /// At the start of the machine, where the host has no address space for one record a frame.
    #[expect(clippy::expect_used, reason = "there is no guest yet")]
    pub fn new(memory: Arc<MachineMemory>, layout: &Layout) -> Self {
        let frames = layout.frames.min(memory.frames());
        let first_free = layout.first_free.0.min(frames);
        // Zeros are free frames, and cost the host no memory until they are used.
        let zeroed = "the frame table fits the address space, as the machine's memory does";
        let table = Self {
            records: Record::new_vec_zeroed(frames as usize).expect(zeroed),
            owned: AtomicU32::new_vec_zeroed(1 << u16::BITS).expect(zeroed),
            lists: Ranked::new(Rank::FrameLists, FrameLists::new(first_free..frames)),
            m2p: MachineToPhys::new(Arc::clone(&memory), layout),
            memory,
        };
        for mfn in (0..first_free).map(Mfn) {
            let given = table.give(mfn, DomId::XEN);
            debug_assert!(given.is_ok(), "{mfn} is free");
        }
        table
    }

    /// The machine-to-physical table.
    pub fn m2p(&self) -> &MachineToPhys {
        &self.m2p
    }

    /// The numbers of all frames of the machine, by rising number.
    pub fn all(&self) -> impl Iterator<Item = Mfn> + use<> {
        (0..self.records.len() as u64).map(Mfn)
    }

    /// The state of a frame at this moment; a free frame's where the machine has no such frame.
    pub fn word(&self, mfn: Mfn) -> Word {
        self.record(mfn).map_or(Word::FREE, |record| Word::unpack(record.word.load(Ordering::SeqCst)))
    }

    /// Who owns a frame; meaningful under a reference only. Nobody owns a free one.
    pub fn owner(&self, mfn: Mfn) -> Option<DomId> {
        let record = self.record(mfn).ok()?;
        (record.word.load(Ordering::SeqCst) != 0).then(|| DomId(record.owner.load(Ordering::SeqCst)))
    }

    /// How many frames a domain owns, those included that it gave back and somebody still refers to.
    pub fn owned_by(&self, domain: DomId) -> u64 {
        self.owned_count(domain).map_or(0, |count| count.load(Ordering::SeqCst).into())
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> u64 {
        self.lists.lock().free()
    }

    /// Where all frames are; exact while nothing else happens.
    pub fn conservation(&self) -> Conservation {
        let owned = self.owned.iter().map(|count| u64::from(count.load(Ordering::SeqCst))).sum();
        Conservation { total: self.records.len() as u64, free: self.free_frames(), owned }
    }

    /// In whose list each frame is that is in one; free ones are in that of [`DomId::INVALID`]. Slow, for audits.
    pub(crate) fn listed(&self) -> BTreeMap<Mfn, DomId> {
        self.lists.lock().all()
    }

    /// Takes a frame out of the list of those that a domain was given, whatever has become of it since: whoever calls this
    /// until there is none has seen each frame of the domain. It stays the domain's.
    pub(crate) fn take_listed(&self, owner: DomId) -> Option<Mfn> {
        self.lists.lock().take_first(owner)
    }

    /// Gives a domain a frame of zeros.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn allocate(&self, owner: DomId) -> Result<Mfn, Refusal> {
        let free = self.lists.lock().take(owner);
        let (mfn, scrub) = match free.ok_or(Refusal::new(Errno::ENOMEM, "the machine has no free frame"))? {
            FreeFrame::Untouched(mfn) => (mfn, false),
            FreeFrame::Used(mfn) => (mfn, true),
        };
        if scrub {
            self.memory.zero(mfn).map_err(|_| NO_SUCH_FRAME)?;
        }
        self.give(mfn, owner)?;
        Ok(mfn)
    }

    /// A free frame, which nobody else can have now, gets an owner.
    fn give(&self, mfn: Mfn, owner: DomId) -> Result<(), Refusal> {
        self.record(mfn)?.owner.store(owner.0, Ordering::SeqCst);
        if let Some(count) = self.owned_count(owner) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        self.apply(mfn, Operation::Allocate).map(|_| ())
    }

    /// Takes a general reference to a frame of `owner`'s.
    ///
    /// # Errors
    /// Why the frame is none of the owner's.
    pub fn get(&self, owner: DomId, mfn: Mfn) -> Result<Reference, Refusal> {
        self.apply(mfn, Operation::Get)?;
        let reference = Reference::recall(mfn, ReferenceKind::General);
        match self.owner(mfn) {
            Some(actual) if actual == owner => Ok(reference),
            actual => {
                self.put(reference);
                Err(Refusal::new(
                    Errno::EPERM,
                    if actual == Some(DomId::XEN) {
                        "the frame is the hypervisor's"
                    } else {
                        "the frame belongs to another domain"
                    },
                ))
            }
        }
    }

    /// Turns a general reference into one that allows writing.
    ///
    /// # Errors
    /// The frame is a table; the reference is given back.
    pub fn into_writable(&self, reference: Reference) -> Result<Reference, Refusal> {
        let mfn = reference.mfn();
        match self.apply(mfn, Operation::AcquireType(FrameType::Writable)) {
            Ok(_) => Ok(Reference::recall(mfn, ReferenceKind::Typed(FrameType::Writable))),
            Err(refusal) => {
                self.put(reference);
                Err(refusal)
            }
        }
    }

    /// [`Self::get`] and [`Self::into_writable`] in one: what every writable mapping takes.
    ///
    /// # Errors
    /// As those.
    pub fn get_writable(&self, owner: DomId, mfn: Mfn) -> Result<Reference, Refusal> {
        // A type that a frame of somebody else's got from here, for however short, would be in its owner's way.
        if self.owner(mfn) == Some(owner) {
            change(&self.record(mfn)?.word, |word| {
                let (referred, _) = step(word, Operation::Get)?;
                step(referred, Operation::AcquireType(FrameType::Writable))
            })?;
            let reference = Reference::recall(mfn, ReferenceKind::Typed(FrameType::Writable));
            if self.owner(mfn) == Some(owner) {
                return Ok(reference);
            }
            self.give_back(reference); // it has changed hands in between
        }
        self.get(owner, mfn).and_then(|general| self.into_writable(general))
    }

    /// Gives a reference back. Where it was the last that kept a table, the table's mfn comes back: its entries
    /// have to be given back now, and the reference is that work's.
    pub fn give_back(&self, reference: Reference) -> Option<Mfn> {
        let mfn = reference.mfn();
        let steps = |word| {
            let ReferenceKind::Typed(kind) = reference.kind() else { return step(word, Operation::Put) };
            match step(word, Operation::ReleaseType(kind))? {
                (released, Effect::Nothing) => step(released, Operation::Put),
                (released, effect) => Ok((released, effect)),
            }
        };
        match self.record(mfn).and_then(|record| change(&record.word, steps)) {
            Ok(Effect::Devalidate) => return Some(mfn),
            Ok(Effect::Freed) => self.free(mfn),
            Ok(_) => {}
            Err(refusal) => self.report_defect(mfn, refusal),
        }
        None
    }

    /// The domain gives a frame back.
    ///
    /// # Errors
    /// It is not the domain's, or given back before.
    pub fn deallocate(&self, owner: DomId, mfn: Mfn) -> Result<(), Refusal> {
        let reference = self.get(owner, mfn)?;
        let outcome = self.apply(mfn, Operation::Deallocate);
        if outcome.is_ok() {
            self.m2p.set(mfn, Pfn::INVALID);
        }
        self.put(reference);
        outcome.map(|_| ())
    }

    /// Gives a general reference back.
    pub(crate) fn put(&self, reference: Reference) {
        debug_assert_eq!(reference.kind(), ReferenceKind::General);
        match self.apply(reference.mfn(), Operation::Put) {
            Ok(Effect::Freed) => self.free(reference.mfn()),
            Ok(_) => {}
            Err(refusal) => self.report_defect(reference.mfn(), refusal),
        }
    }

    /// One operation on one frame.
    ///
    /// # Errors
    /// As [`step`] refuses it, or there is no such frame.
    #[inline] // see `step`
    pub(crate) fn apply(&self, mfn: Mfn, operation: Operation) -> Result<Effect, Refusal> {
        exchange(&self.record(mfn)?.word, operation)
    }

    /// Entries of a table that hold references while it is not valid.
    pub(crate) fn progress(&self, mfn: Mfn) -> usize {
        self.record(mfn).map_or(0, |record| record.progress.load(Ordering::Relaxed).into())
    }

    /// See [`Self::progress`]; under the owner's paging lock, which is what orders it.
    pub(crate) fn set_progress(&self, mfn: Mfn, entries: usize) {
        if let (Ok(record), Ok(entries)) = (self.record(mfn), u16::try_from(entries)) {
            record.progress.store(entries, Ordering::Relaxed);
        }
    }

    fn free(&self, mfn: Mfn) {
        self.m2p.set(mfn, Pfn::INVALID);
        let Ok(record) = self.record(mfn) else { return };
        let owner = DomId(record.owner.swap(DomId::INVALID.0, Ordering::SeqCst));
        if let Some(count) = self.owned_count(owner) {
            count.fetch_sub(1, Ordering::SeqCst);
        }
        self.lists.lock().give_back(owner, mfn);
    }

    /// A reference was given back that nobody had: a defect of the hypervisor. The frame is leaked, which is
    /// safe, rather than freed, which is not.
    fn report_defect(&self, mfn: Mfn, refusal: Refusal) {
        tracing::error!(target: crate::defect::TARGET, %mfn, word = ?self.word(mfn), %refusal, "reference count defect");
        debug_assert!(false, "{mfn}: {refusal}: {:?}", self.word(mfn));
    }

    fn record(&self, mfn: Mfn) -> Result<&Record, Refusal> {
        usize::try_from(mfn.0).ok().and_then(|index| self.records.get(index)).ok_or(NO_SUCH_FRAME)
    }

    fn owned_count(&self, domain: DomId) -> Option<&AtomicU32> {
        self.owned.get(usize::from(domain.0))
    }
}

const NO_SUCH_FRAME: Refusal = Refusal::new(Errno::EINVAL, "the machine has no such frame");
