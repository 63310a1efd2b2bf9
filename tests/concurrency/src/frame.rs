//! The compare-exchange of a frame's word; the pure step below it is the hypervisor's as it is.

pub use hypervisor::frame::{Effect, Operation, Word, step};

#[path = "../../../hypervisor/src/frame/exchange.rs"]
pub mod exchange;
