//! Domains beside each other on one pcpu: their clocks, their share of the time, their timers, what `cpuid` tells
//! them, and what is left when they end.

mod clock;
mod cpuid;
mod ends;
mod pause;
mod share;
#[path = "../support/mod.rs"]
mod support;
mod timers;
#[path = "../support/tiny_guest/mod.rs"]
mod tiny_guest;

use std::process::ExitCode;

fn main() -> ExitCode {
    // One at a time: threads and descriptors are counted, and time is measured.
    let tests =
        [clock::tests(), share::tests(), timers::tests(), ends::tests(), cpuid::tests(), pause::tests()];
    support::main_one_at_a_time(tests.into_iter().flatten().collect())
}
