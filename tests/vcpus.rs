//! Guests with several vCPUs, on as many pcpus, fewer and more: the self-test with its second vCPU, and its end.

mod support;

use libtest_mimic::Trial;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use support::{Outcome, finish, main_one_at_a_time, needs_kvm, paravane, run, test};

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
        needs_kvm("programs_run_on_all_vcpus", || programs("4", "2")),
        needs_kvm("programs_run_on_as_many_vcpus_as_the_kernel_may_use", fewer),
        needs_kvm("a_program_on_another_vcpu_is_killed", killed),
        needs_kvm("the_kernel_passes_its_self_test_on_all_vcpus", on_all),
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

/// The same, with a kernel that uses the first vCPU only.
fn left(vcpus: &str, pcpus: &str, commands: &str) -> Outcome {
    run(&["run", "--vcpus", vcpus, "--pcpus", pcpus, "--cmdline", "maxcpus=1", "--exec", commands])
}

/// Of each vCPU, milliseconds in programs.
#[track_caller]
fn in_programs(outcome: &Outcome) -> Vec<u64> {
    assert_eq!(outcome.status, Some(0), "{}\n{}", outcome.stderr, outcome.stdout);
    let table = outcome.stdout.split_once("vCPU       turns  user ms      sleeps\n").expect("a table").1;
    let user_ms = |line: &str| line.split_whitespace().nth(2)?.parse().ok();
    table.lines().map_while(user_ms).collect()
}

/// Every vCPU wakes up for a program sooner or later, whatever the host is busy with.
fn programs(vcpus: &str, pcpus: &str) {
    let count: usize = vcpus.parse().expect("a number");
    let start = "spawn spin 1000 &; ".repeat(count);
    let all_used = || {
        let used = in_programs(&on(vcpus, pcpus, &format!("{start}spawn spin 1500; vcpus")));
        assert_eq!(used.len(), count);
        used.iter().all(|milliseconds| *milliseconds > 0)
    };
    assert!((0..5).any(|_| all_used()), "a vCPU never runs a program");
}

fn fewer() {
    let start = "spawn spin 200 &; ".repeat(4);
    let commands = format!("{start}sleep 1; vcpus");
    let outcome =
        run(&["run", "--vcpus", "4", "--pcpus", "2", "--cmdline", "maxcpus=2", "--exec", &commands]);
    assert_eq!(in_programs(&outcome).len(), 2);
    assert!(outcome.stdout.contains("2 of 4 vCPUs are used"), "{}", outcome.stdout);
}

/// A program that nothing else would interrupt: there are more vCPUs than programs.
fn killed() {
    let mut child = paravane(&["run", "--vcpus", "3", "--pcpus", "2"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("paravane starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"spawn spin 100000\n").expect("the guest listens");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let interrupted = AtomicBool::new(false);
    thread::scope(|scope| {
        // Ctrl-C, until the program runs and that ends it.
        scope.spawn(|| {
            while !interrupted.load(Ordering::SeqCst) {
                stdin.write_all(b"\x03").expect("the guest listens");
                thread::sleep(Duration::from_millis(200));
            }
        });
        let mut lines = stdout.by_ref().lines().map(|line| line.expect("text"));
        let found = lines.any(|line| line.contains("interrupted"));
        interrupted.store(true, Ordering::SeqCst);
        assert!(found, "it ended otherwise");
    });
    // What was typed too much is a line of its own.
    stdin.write_all(b"\nspawn hello\npoweroff\n").expect("the guest listens");
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    let outcome = finish(child);
    assert_eq!(outcome.status, Some(0), "{}\n{rest}", outcome.stderr);
    assert!(rest.contains("hello from user mode"), "{rest}");
}

fn on_all() {
    for (vcpus, pcpus) in [("2", "2"), ("5", "2"), ("3", "1")] {
        let outcome = on(vcpus, pcpus, "selftest; poweroff");
        assert!(outcome.stdout.contains("left out, the kernel uses it (maxcpus=1)"), "{}", outcome.stdout);
        assert_eq!(passed(&outcome), passed(&on("1", "1", "selftest; poweroff")));
    }
}

/// The checks are as many whatever the number of vCPUs.
fn selftest(vcpus: &str, pcpus: &str) {
    let outcome = left(vcpus, pcpus, "selftest; poweroff");
    let has_second = outcome.stdout.contains("it goes on: touching");
    assert_eq!(has_second, vcpus != "1", "{}", outcome.stdout);
    assert_eq!(passed(&outcome), passed(&on("1", "1", "selftest; poweroff")));
}

fn twice() {
    let outcome = left("2", "2", "selftest; selftest; poweroff");
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
