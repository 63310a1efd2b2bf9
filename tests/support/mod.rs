//! What the test programs share: telling "passed" from "could not be tried here".

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

/// Why tests that need KVM cannot run here; none where they can.
pub fn no_kvm() -> Option<String> {
    let open = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    open.err().map(|error| format!("/dev/kvm: {error}"))
}

/// A test that needs `/dev/kvm`: counted as ignored, with the reason in its name, where there is none.
pub fn kvm_test(name: &str, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    match no_kvm() {
        None => Trial::test(name, run),
        Some(why) => Trial::test(format!("{name} (skipped: {why})"), || Ok(())).with_ignored_flag(true),
    }
}

/// Runs the tests as `cargo test` expects.
pub fn main(tests: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each test has pcpus of its own, and figures on two cores are better one at a time.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// Fails the test with a message.
pub fn fail<T>(message: impl Into<String>) -> Result<T, Failed> {
    Err(Failed::from(message.into()))
}

/// Checks a condition.
pub fn check(condition: bool, message: impl FnOnce() -> String) -> Result<(), Failed> {
    if condition { Ok(()) } else { fail(message()) }
}
