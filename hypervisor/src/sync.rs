//! Atomics and condition variables under a name of our own. The files that `tests/concurrency` compiles once more name
//! them so; there the name stands for ones whose every interleaving is tried.

pub use std::sync::{Condvar, atomic};
