//! Guests with several vCPUs, on as many pcpus, fewer and more: the self-test with its second vCPU, and its end.

mod support;

use libtest_mimic::Trial;
use std::process::ExitCode;
use support::{Outcome, main_one_at_a_time, needs_kvm, run, test};

const USAGE: i32 = 2;
const CRASHED: i32 = 3;

fn main() -> ExitCode {
    main_one_at_a_time(trials())
}

fn trials() -> Vec<Trial> {
    vec![
        needs_kvm("two_vcpus_on_two_pcpus", || selftest("2", "2")),
        needs_kvm("two_vcpus_on_one_pcpu", || selftest("2", "1")),
        needs_kvm("more_vcpus_than_pcpus", || selftest("5", "2")),
        needs_kvm("one_vcpu_is_told_that_there_is_no_second", || selftest("1", "2")),
        needs_kvm("a_second_run_finds_the_vcpu_stopped", twice),
        needs_kvm("a_crash_ends_all_vcpus", crash),
        needs_kvm("a_reboot_starts_with_one_vcpu_again", reboot),
        test("numbers_of_vcpus_that_no_domain_has", usage),
    ]
}

fn on(vcpus: &str, pcpus: &str, commands: &str) -> Outcome {
    run(&["run", "--vcpus", vcpus, "--pcpus", pcpus, "--exec", commands])
}

/// The numbers of checks that passed, one of each run.
#[track_caller]
fn passed(outcome: &Outcome) -> Vec<u32> {
    assert_eq!(outcome.status, Some(0), "{}\n{}", outcome.stderr, outcome.stdout);
    let counts = outcome.stdout.lines().filter_map(|line| line.strip_prefix("selftest: "));
    let passed = counts.filter_map(|line| line.strip_suffix(" passed, 0 failed")?.parse().ok());
    passed.collect()
}

/// The checks are as many whatever the number of vCPUs.
fn selftest(vcpus: &str, pcpus: &str) {
    let outcome = on(vcpus, pcpus, "selftest; poweroff");
    let has_second = outcome.stdout.contains("it goes on: touching");
    assert_eq!(has_second, vcpus != "1", "{}", outcome.stdout);
    assert_eq!(passed(&outcome), passed(&on("1", "1", "selftest; poweroff")));
}

fn twice() {
    let outcome = on("2", "2", "selftest; selftest; poweroff");
    let passed = passed(&outcome);
    assert!(passed.len() == 2 && passed[0] == passed[1], "{passed:?}");
    assert!(
        outcome.stdout.contains("initialising a vCPU: left out, it has run before"),
        "{}",
        outcome.stdout
    );
}

fn crash() {
    let outcome = on("2", "2", "selftest; crash");
    assert_eq!(outcome.status, Some(CRASHED), "{}", outcome.stderr);
}

fn reboot() {
    let outcome = on("2", "2", "selftest; reboot");
    assert!(outcome.stdout.matches("Paravane guest kernel").count() == 2, "{}", outcome.stdout);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
}

fn usage() {
    for vcpus in ["0", "33", "many"] {
        let outcome = on(vcpus, "1", "poweroff");
        assert_eq!(outcome.status, Some(USAGE), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    }
}
