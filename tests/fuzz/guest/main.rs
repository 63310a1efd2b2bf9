//! Hypercalls from a real guest on KVM: two vCPUs make calls of the same shapes as the fuzzers on the fake machine, with
//! the same playground, so that each changes what the other has just passed. Beside them a canary counts, on the same
//! two pcpus.
//!
//! A guest may end in any way that is its own; then the next one comes, with another seed. While it plays, the canary's
//! memory is compared and its frames are counted again and again, but for a page that it lends to be written; one it
//! lends to be read. When the guest has nothing more to call, and when it is gone, everything is recounted.
//! `GUEST_FUZZ_CALLS` says how many calls all of them make together; `GUEST_FUZZ_SEED` which seed is the first.

#[path = "../calls/mod.rs"]
#[allow(dead_code, unused_imports)] // each of its users needs a part of it
mod calls;
mod coverage;
mod kernel;
mod lending;
mod player;
#[path = "../../support/mod.rs"]
mod support;
#[path = "../../support/tiny_guest/mod.rs"]
mod tiny_guest;

use coverage::Coverage;
use kernel::kernel;
use libtest_mimic::Failed;
use player::play;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use support::{check, kvm_test, main_one_at_a_time};
use tiny_guest::Host;

/// Calls in `cargo test`.
const CALLS: u64 = 30_000;

/// What was seen, if it ran.
static REPORT: OnceLock<String> = OnceLock::new();

fn main() -> ExitCode {
    let test = kvm_test("fuzz/two_vcpus_beside_a_canary", two_vcpus_beside_a_canary);
    let outcome = main_one_at_a_time(vec![test]);
    REPORT.get().into_iter().for_each(|report| println!("{report}"));
    outcome
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn two_vcpus_beside_a_canary() -> Result<(), Failed> {
    static PANICKED: AtomicBool = AtomicBool::new(false);
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, SeqCst);
        report(info);
    }));
    let wanted: u64 = setting("GUEST_FUZZ_CALLS", CALLS);
    let mut host = Host::with_pcpus(2)?;
    host.canary_gives(lending::TO_WRITE);
    let (kernel, mut coverage) = (kernel(), Coverage::default());
    let mut seed: u64 = setting("GUEST_FUZZ_SEED", 0);
    while coverage.calls() < wanted {
        play(&host, &kernel, seed, &mut coverage).map_err(|error| {
            format!("{error:?}\nplay it again: GUEST_FUZZ_SEED={seed} GUEST_FUZZ_CALLS=1")
        })?;
        check(!PANICKED.load(SeqCst), || format!("the hypervisor panicked with seed {seed}"))?;
        seed += 1;
    }
    host.finish()?;
    check(!PANICKED.load(SeqCst), || "the hypervisor panicked at the end".into())?;
    let _ = REPORT.set(coverage.report());
    if wanted >= CALLS { coverage.check() } else { Ok(()) }
}
