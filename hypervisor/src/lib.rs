//! Paravane's hypervisor: everything of the process that `paravane` is, but for its command line's entry point.
//!
//! Layers point down only: `run_loop`, `hypercall` → `domain`, `vcpu`, `event_channel`, `time` → `paging` →
//! `frame` → [`machine`]. See `ARCHITECTURE.md`.

pub mod error;
pub mod kernel_image;
pub mod frame;
pub mod machine;
pub mod paging;
