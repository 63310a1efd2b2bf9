//! The frame table: who owns each frame of the machine, what it is used as, and how often it is referred to.
//!
//! It is the ledger of the isolation between domains. The rules of one frame are [`step()`]'s, a pure function; what
//! a whole page-table tree means to many frames is the business of [`crate::paging`].
#![forbid(unsafe_code)]

mod exchange;
mod lists;
mod m2p;
mod reference;
mod snapshot;
mod step;
mod table;
mod word;

#[cfg(test)]
mod tests;

pub use m2p::MachineToPhys;
pub use reference::{Reference, ReferenceKind};
pub use snapshot::FramesAtRest;
pub use step::{Effect, Operation, step};
pub use table::{Conservation, FrameTable};
pub use word::{FrameType, Phase, Word};
