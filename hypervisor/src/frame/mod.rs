//! The frame table: who owns each frame of the machine, what it is used as, and how often it is referred to.
//!
//! It is the ledger of the isolation between domains. The rules of one frame are [`word`]'s, a pure function; what
//! a whole page-table tree means to many frames is the business of [`crate::paging`].
#![forbid(unsafe_code)]

mod free_list;
mod m2p;
mod reference;
mod table;
pub mod word;

#[cfg(test)]
mod tests;

pub use m2p::MachineToPhys;
pub use reference::{Reference, ReferenceKind};
pub use table::{Conservation, FrameTable};
pub use word::{Effect, FrameType, Operation, Phase, Word, step};
