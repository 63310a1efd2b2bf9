//! The compare-exchange of a frame's word; the pure step below it is the hypervisor's as it is.

pub use hypervisor::frame::{Effect, FrameType, Operation, Word, step};
pub use reference::{Reference, ReferenceKind};

#[path = "../../../hypervisor/src/frame/exchange.rs"]
pub mod exchange;
#[path = "../../../hypervisor/src/frame/reference.rs"]
mod reference;
