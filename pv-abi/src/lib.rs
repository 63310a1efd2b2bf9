//! Xen's public paravirtual ABI for x86-64, as Paravane and its guests speak it.
//!
//! Numbers, names and layouts are those of Xen's public headers (`xen/include/public`, MIT). Nothing here is
//! Paravane's own except what lives in [`extension`].
//!
//! Rules of this crate:
//! - no pointer, `usize`, `bool` or Rust enum crosses the wire: enumerations are newtypes, so that a value
//!   nobody knows is still a value ([`wire_enum!`]);
//! - every wire type can be read from and written to plain bytes (zerocopy), and its size and offsets are
//!   pinned at compile time where it is defined;
//! - every item cites its counterpart in those headers, and is compared with what it cites: the form of a
//!   citation is described in `tests/peers/headers.rs`, and `tests/peers/headers` compares;
//! - a peer is hostile: what it wrote is checked by whoever reads it, and being wrong is an error value.
#![no_std]
#![forbid(unsafe_code)]
// What a peer can reach must not panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects
    )
)]

#[macro_use]
mod macros;

pub mod address;
pub mod callback;
pub mod console_io;
pub mod cpuid;
pub mod elf_note;
pub mod errno;
pub mod event_channel;
pub mod extension;
pub mod features;
pub mod grant_table;
pub mod guest_context;
pub mod hypercall;
pub mod ids;
pub mod io;
pub mod memory;
pub mod mmu;
pub mod page_table;
pub mod physdev;
pub mod ring;
pub mod sched;
pub mod segment;
pub mod shared_info;
pub mod start_info;
pub mod time;
pub mod trap;
pub mod vcpu;
pub mod version;

pub use address::{Mfn, PAGE_SHIFT, PAGE_SIZE, Pfn};
pub use errno::Errno;
pub use ids::{DomId, EventPort, GrantRef, VcpuId};
