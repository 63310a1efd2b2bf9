//! PV kernels of a few instructions, put together by hand, and a machine to run them on.
//!
//! [`Code`] makes the kernel, [`Host`] runs it beside a [canary](canary): a domain on the same pcpu that counts, and
//! notices when a register or a byte of its memory is not as it left it. A test ends with [`Host::finish`], which
//! looks after the canary, the frames and the books.
#![allow(dead_code, unused_imports)] // no test program uses all of it

mod canary;
mod code;
mod disk;
mod file;
mod guest;
mod host;
#[path = "../image_maker.rs"]
mod image_maker;
mod random;
mod store;

pub use code::{CODE, Code, Condition, NONE, Reg, SCRATCH, STACK, TABLE, UNMAPPED, Via, handler, trap};
pub use disk::{DATA_PAGE, DATA_REF, RING, RING_REF, SEGMENT_PAGE, SEGMENT_REF, request, segment};
pub use file::TinyGuest;
pub use guest::{CONSOLE_PORT, Ear, FIRST_OWN_PORT, Guest, STORE_PORT, VCPUS, check_crash, check_power_off};
pub use host::Host;
pub use image_maker::{Maker, VIRT_BASE};
pub use random::Random;
pub use store::{Conversation, REPLIES, store_field, store_ring};
