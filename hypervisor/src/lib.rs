//! Paravane's hypervisor: everything of the process that `paravane` is, but for its command line's entry point.
//!
//! Layers point down only: `control` → `run_loop` → `hypercall`, `emulate` → `services` → `sched` → `event_channel`,
//! `grant` → `domain` → `vcpu` → `paging` → `frame` → [`machine`]. See `ARCHITECTURE.md`, which a test holds the imports
//! against.

#![allow(rustdoc::private_intra_doc_links)] // the documentation is for those who read the code
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

pub mod alarm;
pub mod assemble;
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "its only guest is its own")]
pub mod bench;
#[allow(
    clippy::arithmetic_side_effects,
    reason = "an image and its domain are below 2^36 and 2^40 bytes, checked"
)]
pub mod builder;
pub mod clock;
pub mod contain;
pub mod control;
pub mod cpuid;
pub mod defect;
pub mod domain;
pub mod emulate;
pub mod error;
pub mod event_channel;
pub mod frame;
pub mod grant;
pub mod guest_memory;
pub mod host_domain;
pub mod hypercall;
pub mod kernel_image;
pub mod lock;
pub mod machine;
pub mod paging;
pub mod report;
pub mod run_loop;
pub mod sched;
pub mod services;
pub(crate) mod sync;
pub mod time;
pub mod timers;
#[allow(clippy::arithmetic_side_effects, reason = "it counts what it writes")]
pub mod trace;
pub mod vcpu;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code))] // fuzzing needs a part of it
mod testing;
