//! Block devices: a [`Disk`] served to a front-end over a ring (`io/blkif.h`).
//!
//! What is promised about flushes, formats, locks and limits is told in `docs/storage.md`.

mod backend;
mod buffer;
mod disk;
mod driver;
pub mod engine;
mod flight;
mod grants;
pub mod image;
mod parameters;
mod prepare;
mod queue;
mod rate;
mod request;

pub use backend::Backend;
pub use buffer::Buffer;
pub use disk::Disk;
pub use driver::{BlockDriver, CLASS, address};
pub use parameters::{MAX_INDIRECT_SEGMENTS, MAX_RING_PAGES, RingParameters};
pub use rate::Limit;
pub use request::Refused;

#[cfg(test)]
mod tests;
