//! The domain builder: from a kernel image to a domain that is ready to take its first instruction.
//!
//! Four steps, each usable and tested by itself:
//! 1. [`unpack`] gets the ELF image out of a bzImage or compressed file;
//! 2. [`KernelImage::parse`] reads it and its Xen notes, on checked slices;
//! 3. [`Plan::new`] decides where everything goes, and is pure arithmetic;
//! 4. [`build`] does what the plan says.
//!
//! Invariants:
//! - An image is hostile. No input makes this module panic, loop for long, or allocate more than a small
//!   multiple of the input's own size, or of [`MAX_UNPACKED`] where it is compressed
//!   (`image::tests::no_mutation_of_an_image_does_harm`, `compression::tests`).
//! - Nothing that is built here is trusted: the page tables are written as data, and become page tables by
//!   pinning their root through the same validation that a guest's own tables pass.

mod build;
mod bzimage;
mod compression;
mod elf;
mod error;
mod format;
mod image;
mod notes;
mod plan;
mod symbols;
mod tables;

#[cfg(test)]
#[path = "../../../tests/support/bzimage_maker.rs"]
mod bzimage_maker;
#[cfg(test)]
#[path = "../../../tests/support/image_maker.rs"]
mod image_maker;

pub use build::{BuiltDomain, Identity, build};
pub use compression::{Compression, MAX_UNPACKED, unpack};
pub use error::{Amount, BuildError, ImageError, PlanError};
pub use image::{KernelImage, Segment};
pub use notes::Notes;
pub use plan::{MAX_COMMAND_LINE, MAX_PAGES, Plan, Ramdisk, Wishes};
pub use symbols::{Function, functions};
pub use tables::{Mapping, Table, Tables, Target};
