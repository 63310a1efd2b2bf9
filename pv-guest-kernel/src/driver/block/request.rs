//! Requests of the block protocol, as they stand in the ring.

use pv_abi::PAGE_SIZE;
use pv_abi::io::block::{DiscardRequest, MAX_SEGMENTS, Operation, Request, Segment};
use zerocopy::{FromZeros, IntoBytes};

use crate::block::SECTOR;
use crate::grant::Grant;

/// Bytes that a request moves at most.
pub const MAX_BYTES: usize = MAX_SEGMENTS * PAGE_SIZE;

/// What a request is to do.
pub struct Order<'a> {
    pub operation: Operation,
    pub sector: u64,
    /// Bytes to read or to write, at most [`MAX_BYTES`]; of a discard, sectors.
    pub length: u64,
    /// What is written; empty for every other operation.
    pub data: &'a [u8],
}

/// The request for an order; `pages` are as many as it needs.
pub fn request(id: u64, order: &Order, pages: &[Grant]) -> Request {
    let mut request = Request::new_zeroed();
    if order.operation == Operation::DISCARD {
        let mut discard = DiscardRequest::new_zeroed();
        (discard.operation, discard.id) = (order.operation, id);
        (discard.sector_number, discard.nr_sectors) = (order.sector, order.length);
        request.as_mut_bytes()[..size_of::<DiscardRequest>()].copy_from_slice(discard.as_bytes());
        return request;
    }
    (request.operation, request.id, request.sector_number) = (order.operation, id, order.sector);
    request.nr_segments = pages.len() as u8;
    let mut sectors = order.length as usize / SECTOR;
    for (segment, page) in request.seg.iter_mut().zip(pages) {
        let count = sectors.min(PAGE_SIZE / SECTOR);
        sectors -= count;
        let (gref, last_sect) = (page.reference(), count as u8 - 1);
        *segment = Segment { gref, first_sect: 0, last_sect, padding: 0 };
    }
    request
}
