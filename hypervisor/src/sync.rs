//! Atomics under a name of our own. The few files that need no more of the crate than this are compiled once more by
//! `tests/concurrency`, where the name stands for atomics whose every interleaving is tried.

pub use std::sync::atomic;
