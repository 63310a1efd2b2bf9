//! Structured fuzzing: see [`crate::fuzzing`]. The same calls in every run; `FUZZ_CALLS` says how many.

use crate::fuzzing::{Playground, Random};

const CALLS_OF_A_GUEST: u64 = 400;

#[test]
fn a_guest_whose_memory_changes_when_it_was_read() {
    let calls: u64 =
        std::env::var("FUZZ_CALLS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(1_000_000);
    let mut playground = Playground::default();
    let (mut made, mut succeeded) = (0, 0);
    while made < calls {
        succeeded += playground.guest(Random::new(made), CALLS_OF_A_GUEST);
        made += CALLS_OF_A_GUEST;
    }
    let mapped = playground.mapped;
    playground.end();
    println!("fuzz_calls {made}\nfuzz_succeeded {succeeded}\nfuzz_mapped {mapped}");
    assert!(mapped > 0, "nothing that the bystander lends was ever mapped");
    assert!(succeeded > made / 10, "only {succeeded} of {made} calls succeeded: the test is too wild");
}
