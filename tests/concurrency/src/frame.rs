//! The compare-exchange of a frame's word; the pure step below it is the hypervisor's as it is.

pub use hypervisor::frame::{Effect, Operation, Word, step};
use pv_abi::Mfn;

#[path = "../../../hypervisor/src/frame/exchange.rs"]
pub mod exchange;

/// A reference to a page, counted by [`crate::paging::Mmu`].
#[derive(Debug)]
#[must_use = "it is given back"]
pub struct Reference(pub Mfn);
