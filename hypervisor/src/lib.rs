//! Paravane's hypervisor: everything of the process that `paravane` is, but for its command line's entry point.
//!
//! Layers point down only: `control` → `run_loop` → `hypercall`, `emulate` → `sched`, `event_channel`,
//! `grant_table`, `time` → `domain`, `vcpu` → `paging` → `frame` → [`machine`]. See `ARCHITECTURE.md`.

#![allow(rustdoc::private_intra_doc_links)] // the documentation is for those who read the code

pub mod assemble;
pub mod bench;
pub mod builder;
pub mod clock;
pub mod control;
pub mod cpuid;
pub mod decode;
pub mod domain;
pub mod emulate;
pub mod error;
pub mod event_channel;
pub mod frame;
pub mod grant_table;
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
pub(crate) mod sync;
pub mod time;
pub mod trace;
pub mod vcpu;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code))] // fuzzing needs a part of it
mod testing;
