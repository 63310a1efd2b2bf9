//! The server's end of a store page (`io/xs_wire.h`).
//!
//! The server's own indices live here and are only ever written to the page; the guest's are read from it once a round,
//! and checked against ours.

use crate::host::{HostError, Page};
use pv_abi::io::byte_ring::{BadIndices, free, run, used};
use pv_abi::io::xenstore::{Connection, DomainInterface, RING_SIZE, RingError, ServerFeatures};
use std::mem::offset_of;

const REQ: usize = offset_of!(DomainInterface, req);
const RSP: usize = offset_of!(DomainInterface, rsp);
const REQ_CONS: usize = offset_of!(DomainInterface, req_cons);
const REQ_PROD: usize = offset_of!(DomainInterface, req_prod);
const RSP_CONS: usize = offset_of!(DomainInterface, rsp_cons);
const RSP_PROD: usize = offset_of!(DomainInterface, rsp_prod);
const SERVER_FEATURES: usize = offset_of!(DomainInterface, server_features);
const CONNECTION: usize = offset_of!(DomainInterface, connection);
const ERROR: usize = offset_of!(DomainInterface, error);

pub(super) struct RingEnd<P> {
    page: P,
    req_cons: u32,
    rsp_prod: u32,
}

impl<P: Page> RingEnd<P> {
    /// Takes up the page where its last server left it. Any index is a valid one to start from.
    pub fn new(page: P) -> Result<Self, HostError> {
        let (req_cons, rsp_prod) = (page.load_u32(REQ_CONS)?, page.load_u32(RSP_PROD)?);
        page.store_u32(ERROR, RingError::NONE.0)?;
        let features = ServerFeatures::RECONNECTION | ServerFeatures::ERROR;
        page.store_u32(SERVER_FEATURES, features.bits())?;
        Ok(Self { page, req_cons, rsp_prod })
    }

    /// True where the guest asks for an empty ring.
    pub fn reconnect_wanted(&self) -> Result<bool, HostError> {
        Ok(Connection(self.page.load_u32(CONNECTION)?) == Connection::RECONNECT)
    }

    /// Empties both rings and gives the page back to the guest.
    pub fn reconnect(&mut self) -> Result<(), HostError> {
        (self.req_cons, self.rsp_prod) = (0, 0);
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            self.page.store_u32(index, 0)?;
        }
        self.page.store_u32(CONNECTION, Connection::CONNECTED.0)
    }

    /// Tells the guest why it is served no more.
    pub fn tell(&self, error: RingError) -> Result<(), HostError> {
        self.page.store_u32(ERROR, error.0)
    }

    /// Bytes of requests that are there.
    pub fn available(&self) -> Result<Result<u32, BadIndices>, HostError> {
        Ok(used(RING_SIZE, self.page.load_u32(REQ_PROD)?, self.req_cons))
    }

    /// Bytes of replies that there is room for.
    pub fn room(&self) -> Result<Result<u32, BadIndices>, HostError> {
        Ok(free(RING_SIZE, self.rsp_prod, self.page.load_u32(RSP_CONS)?))
    }

    /// Takes bytes that are available. The guest may use their place again after [`Self::publish`].
    pub fn take(&mut self, length: u32) -> Result<Vec<u8>, HostError> {
        let mut bytes = vec![0; length as usize];
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let (offset, length) = run(RING_SIZE, self.req_cons, rest.len() as u32);
            // A run is no longer than what is left.
            let Some((now, later)) = rest.split_at_mut_checked(length as usize) else { break };
            self.page.read(REQ + offset as usize, now)?;
            self.req_cons = self.req_cons.wrapping_add(length);
            rest = later;
        }
        Ok(bytes)
    }

    /// Puts bytes that there is room for. The guest finds them after [`Self::publish`].
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<(), HostError> {
        while !bytes.is_empty() {
            let (offset, length) = run(RING_SIZE, self.rsp_prod, bytes.len() as u32);
            let Some((now, later)) = bytes.split_at_checked(length as usize) else { break };
            self.page.write(RSP.saturating_add(offset as usize), now)?;
            self.rsp_prod = self.rsp_prod.wrapping_add(length);
            bytes = later;
        }
        Ok(())
    }

    /// Shows the guest our indices.
    pub fn publish(&self) -> Result<(), HostError> {
        self.page.store_u32(REQ_CONS, self.req_cons)?;
        self.page.store_u32(RSP_PROD, self.rsp_prod)
    }
}
