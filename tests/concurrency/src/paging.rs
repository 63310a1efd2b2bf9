//! As much of the hypervisor's `paging` as a grant table needs: a frame with one entry, and a page that it lends. Only
//! the entry is what threads race for; the rest is for looking, and no further step.

pub use hypervisor::paging::{EntryPlace, EntryTarget};

use crate::error::Refusal;
use crate::frame::{Reference, ReferenceKind};
use crate::sync::atomic::AtomicU64;
use pv_abi::{DomId, Mfn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// The entry, in memory that its domain writes at the same time.
#[derive(Debug, Default)]
pub struct Memory {
    entry: AtomicU64,
    /// The frame was given back, and may be anybody's.
    pub gone: AtomicBool,
}

type Access<T> = Result<T, std::convert::Infallible>;

impl Memory {
    fn entry(&self) -> &AtomicU64 {
        assert!(!self.gone.load(SeqCst), "the table of a dead domain is touched");
        &self.entry
    }

    pub fn load_u64(&self, _: Mfn, _: usize) -> Access<u64> {
        Ok(self.entry().load(SeqCst))
    }

    pub fn write(&self, _: Mfn, _: usize, bytes: &[u8]) -> Access<()> {
        self.entry().store(u64::from_le_bytes(bytes.try_into().expect("eight bytes")), SeqCst);
        Ok(())
    }

    /// Of the lower half, as one step.
    pub fn compare_exchange_u32(&self, _: Mfn, _: usize, seen: u32, new: u32) -> Access<bool> {
        let exchange = |word| (word as u32 == seen).then_some(word & !u64::from(u32::MAX) | u64::from(new));
        Ok(self.entry().fetch_update(SeqCst, SeqCst, exchange).is_ok())
    }

    pub fn fetch_and_u64(&self, _: Mfn, _: usize, mask: u64) -> Access<u64> {
        Ok(self.entry().fetch_and(mask, SeqCst))
    }
}

#[derive(Debug, Default)]
pub struct Mmu {
    memory: Memory,
    /// References to the page that is lent.
    pub held: AtomicUsize,
}

impl Mmu {
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn allocate_shared(&self, _: DomId) -> Result<Mfn, Refusal> {
        Ok(Mfn(1))
    }

    pub fn hold(&self, _: DomId, mfn: Mfn, _: bool) -> Result<Reference, Refusal> {
        self.held.fetch_add(1, SeqCst);
        Ok(Reference::recall(mfn, ReferenceKind::General))
    }

    pub fn release(&self, reference: Reference) {
        reference.into_entry();
        self.held.fetch_sub(1, SeqCst);
    }
}
