//! Bytes that libFuzzer makes up decide what a guest on the fake machine calls, with which arguments, and how its
//! memory changes between two reads of the hypervisor's. What is wrong panics: see `hypervisor::fuzzing`.
#![no_main]

use hypervisor::fuzzing::{Bytes, Playground};
use libfuzzer_sys::fuzz_target;
use std::sync::atomic::{AtomicU64, Ordering};

/// A call takes some twenty bytes.
const BYTES_OF_A_CALL: usize = 20;
/// Calls between two reports.
const REPORT: u64 = 10_000;

static MADE: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|bytes: &[u8]| {
    let calls = 1 + (bytes.len() / BYTES_OF_A_CALL) as u64;
    let mut playground = Playground::default();
    playground.guest(Bytes(bytes), calls);
    playground.end();
    let made = MADE.fetch_add(calls, Ordering::Relaxed) + calls;
    if made / REPORT > (made - calls) / REPORT {
        eprintln!("coverage_fuzz_calls {made}");
    }
});
