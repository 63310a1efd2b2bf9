//! Rings of requests and responses (`io/ring.h`): the transport of every device.
//!
//! A ring lies in memory that both ends write: a header with four indices, then slots. The front-end puts a request
//! into a slot, the back-end puts the response into a slot whose request it has taken. Indices run freely and are
//! masked at use. [`FrontRing`] and [`BackRing`] are the two ends, for whatever requests a device has.
//!
//! Rules of both ends:
//! - an end keeps its own two indices to itself and only ever writes them to the ring;
//! - the peer's index is read once, checked against the own ones, and then used: a peer that claims more than there
//!   can be is [`RingError::Overrun`], and its ring is to be given up;
//! - a slot is copied out as a whole, and what was copied is what counts.

mod back;
mod front;
pub mod index;
mod memory;

pub use back::BackRing;
pub use front::FrontRing;
pub use memory::{RingError, RingMemory};

/// Offset of the index up to which the front-end has put requests.
pub const REQ_PROD: usize = 0;
/// Offset of the request index at which the back-end wants to be notified.
pub const REQ_EVENT: usize = 4;
/// Offset of the index up to which the back-end has put responses.
pub const RSP_PROD: usize = 8;
/// Offset of the response index at which the front-end wants to be notified.
pub const RSP_EVENT: usize = 12;
/// Offset of the first slot.
pub const SLOTS: usize = 64;

#[cfg(test)]
mod tests;
