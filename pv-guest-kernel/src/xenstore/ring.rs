//! The guest's end of the store's page: bytes of requests out, bytes of replies and events in.
//!
//! Invariants: the own indices live here and are only ever written to the page; the server's are read once and checked
//! against them; bytes are stored before the index that publishes them.

use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use pv_abi::Mfn;
use pv_abi::io::byte_ring::{self, BadIndices};
use pv_abi::io::xenstore::{DomainInterface, RING_SIZE};

use crate::memory::{SharedPage, linear, translation};

pub struct Ring {
    page: SharedPage,
    req_prod: u32,
    rsp_cons: u32,
}

impl Ring {
    /// The ring in `frame`, unless the frame is not ours. A boot loader may have used it before: what was said to that
    /// is dropped.
    pub fn new(frame: Mfn) -> Option<Self> {
        let address = linear::address(translation::pfn(frame)?);
        // SAFETY: the builder's promise: the page is the store's for ever, and mapped like all of ours.
        let page = unsafe { SharedPage::at(address) };
        let load = |offset| page.word(offset).load(Ordering::Acquire);
        let req_prod = load(offset_of!(DomainInterface, req_prod));
        let rsp_cons = load(offset_of!(DomainInterface, rsp_prod));
        page.word(offset_of!(DomainInterface, rsp_cons)).store(rsp_cons, Ordering::Release);
        Some(Self { page, req_prod, rsp_cons })
    }

    /// Writes as many bytes as there is room for, and says how many.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, BadIndices> {
        let consumed = self.page.word(offset_of!(DomainInterface, req_cons)).load(Ordering::Acquire);
        let room = byte_ring::free(RING_SIZE, self.req_prod, consumed)?;
        let now = &bytes[..bytes.len().min(room as usize)];
        let mut rest = now;
        while !rest.is_empty() {
            let (offset, length) = byte_ring::run(RING_SIZE, self.req_prod, rest.len() as u32);
            let (run, later) = rest.split_at(length as usize);
            self.page.write(offset_of!(DomainInterface, req) + offset as usize, run);
            self.req_prod = self.req_prod.wrapping_add(length);
            rest = later;
        }
        self.page.word(offset_of!(DomainInterface, req_prod)).store(self.req_prod, Ordering::SeqCst);
        Ok(now.len())
    }

    /// Takes all bytes that are there.
    pub fn read(&mut self) -> Result<Vec<u8>, BadIndices> {
        let produced = self.page.word(offset_of!(DomainInterface, rsp_prod)).load(Ordering::Acquire);
        let count = byte_ring::used(RING_SIZE, produced, self.rsp_cons)?;
        let mut bytes = alloc::vec![0; count as usize];
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let (offset, length) = byte_ring::run(RING_SIZE, self.rsp_cons, rest.len() as u32);
            let (run, later) = rest.split_at_mut(length as usize);
            self.page.read(offset_of!(DomainInterface, rsp) + offset as usize, run);
            self.rsp_cons = self.rsp_cons.wrapping_add(length);
            rest = later;
        }
        self.page.word(offset_of!(DomainInterface, rsp_cons)).store(self.rsp_cons, Ordering::SeqCst);
        Ok(bytes)
    }
}
