//! Time: the paravirtual clock, and timers on it.

mod clock;
mod timer;

pub use clock::{now, wall_clock};
pub use timer::{arm, bind, events, expire, forget_armed, init, port, sleep};

/// Nanoseconds in a microsecond.
pub const MICROSECOND: u64 = 1_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
