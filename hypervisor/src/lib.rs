//! Paravane's hypervisor: everything of the process that `paravane` is, but for its command line's entry point.
//!
//! Layers point down only: `control` → `run_loop` → `hypercall`, `emulate` → `sched`, `event_channel`, `time` →
//! `domain`, `vcpu` → `paging` → `frame` → [`machine`]. See `ARCHITECTURE.md`.

pub mod bell;
pub mod clock;
pub mod error;
pub mod frame;
pub mod lock;
pub mod machine;
pub mod paging;
pub mod time;
