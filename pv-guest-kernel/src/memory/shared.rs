//! A page that somebody outside the domain writes at the same time: copies and atomics, never references.

use core::sync::atomic::{AtomicU16, AtomicU32};

use pv_abi::PAGE_SIZE;

use crate::arch::processor;

/// The page at an address. Accesses that leave it are a bug of the kernel, and panic.
pub struct SharedPage(u64);

impl SharedPage {
    /// The page at `address`.
    ///
    /// # Safety
    ///
    /// It stays mapped, writable, as long as this exists, and nothing accesses it but through values like this.
    pub unsafe fn at(address: u64) -> Self {
        Self(address)
    }

    /// Copies the bytes from `offset` on out of the page. Panics where they reach behind its end.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.place(offset, into.len());
        // SAFETY: inside the page; the copy is the processor's, so whatever it finds there is some bytes.
        unsafe { processor::copy(into.as_mut_ptr() as u64, from, into.len()) }
    }

    /// Copies bytes into the page, from `offset` on. Panics where they reach behind its end.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.place(offset, from.len());
        // SAFETY: as above.
        unsafe { processor::copy(to, from.as_ptr() as u64, from.len()) }
    }

    /// A word that both sides exchange.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(size_of::<u32>()));
        // SAFETY: inside the page, aligned, and never accessed but atomically or by copies of the processor's.
        unsafe { &*(self.place(offset, size_of::<u32>()) as *const AtomicU32) }
    }

    /// Half a word that both sides exchange.
    pub fn half_word(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(size_of::<u16>()));
        // SAFETY: as above.
        unsafe { &*(self.place(offset, size_of::<u16>()) as *const AtomicU16) }
    }

    fn place(&self, offset: usize, length: usize) -> u64 {
        assert!(offset <= PAGE_SIZE && length <= PAGE_SIZE - offset);
        self.0 + offset as u64
    }
}
