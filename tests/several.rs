//! Several domains in one machine: whose words are whose, who is typed to, and that none of them suffers from another.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use support::terminal::Terminal;
use support::{Outcome, finish, main_one_at_a_time, needs_kvm, paravane, run, run_typing};
use tempfile::TempDir;

const CRASHED: i32 = 3;
const FAILED: i32 = 4;

fn main() -> ExitCode {
    main_one_at_a_time(vec![
        needs_kvm("each_line_has_its_domain_s_mark", marks),
        needs_kvm("a_single_file_is_a_single_guest", single),
        needs_kvm("a_file_without_stdin_runs_the_guest", headless),
        needs_kvm("an_attack_harms_nobody_else", attack),
        needs_kvm("an_attack_harms_nobody_else_on_two_pcpus", attack_on_two_pcpus),
        needs_kvm("the_status_is_the_worst_of_all", statuses),
        needs_kvm("floating_point_registers_are_each_domain_s_own", floating_point),
        needs_kvm("a_domain_that_never_yields_does_not_stop_another", spinner),
        needs_kvm("a_pipe_goes_to_the_first_that_listens", pipe),
        needs_kvm("a_reboot_is_one_domain_s_affair", reboot),
        needs_kvm("keys_switch_between_domains", switch),
        needs_kvm("two_pcpus_run_three_domains", three),
    ])
}

/// Files that describe a domain each, deleted when dropped.
struct Files {
    _directory: TempDir,
    names: Vec<String>,
}

impl Files {
    /// Domains of 32 MiB, with a name and further lines each.
    fn new(domains: &[(&str, &str)]) -> Self {
        let texts: Vec<_> =
            domains.iter().map(|(name, rest)| (*name, format!("memory = \"32M\"\n{rest}\n"))).collect();
        Self::with_texts(&texts.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>())
    }

    /// Files with these names and texts.
    fn with_texts(texts: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |&(name, text): &(&str, &str)| {
            let path = directory.path().join(name).with_extension("toml");
            std::fs::write(&path, text).expect("a file");
            path.to_str().expect("a path in UTF-8").to_owned()
        };
        let names = texts.iter().map(write).collect();
        Self { _directory: directory, names }
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        ["run"].into_iter().chain(self.names.iter().map(String::as_str)).chain(more.iter().copied()).collect()
    }

    fn run(&self, more: &[&str]) -> Outcome {
        run(&self.arguments(more))
    }
}

#[track_caller]
fn assert_ended(outcome: &Outcome, status: i32) {
    assert_eq!(outcome.status, Some(status), "{}\n{}", outcome.stderr, outcome.stdout);
}

#[track_caller]
fn assert_told(outcome: &Outcome, line: &str) {
    let told = outcome.stderr.lines().any(|told| told.starts_with(line));
    assert!(told, "{line:?} is missing: {}", outcome.stderr);
}

/// The lines that a domain wrote to its console, without the mark that stdout shows before each.
fn said<'a>(outcome: &'a Outcome, name: &str) -> Vec<&'a str> {
    let mark = format!("{name}| ");
    outcome.stdout.lines().filter_map(|line| line.strip_prefix(&mark)).collect()
}

fn marks() {
    let files = Files::new(&[("a", "exec = 'version; help; version'"), ("b", "exec = 'programs; version'")]);
    let outcome = files.run(&[]);
    assert_ended(&outcome, 0);
    for name in ["a", "b"] {
        let interface = said(&outcome, name).iter().filter(|line| line.starts_with("interface:")).count();
        assert_eq!(interface, if name == "a" { 2 } else { 1 }, "{}", outcome.stdout);
        assert_told(&outcome, &format!("{name}: the bundled kernel booted in "));
        assert_told(&outcome, &format!("{name}: powered off after "));
    }
    let unmarked = outcome.stdout.lines().find(|line| !line.starts_with("a| ") && !line.starts_with("b| "));
    assert_eq!(unmarked, None);
    assert_told(&outcome, "2 domains: a, b");
    assert_told(&outcome, "2 domains ended after ");
}

fn single() {
    let outcome = Files::new(&[("a", "exec = 'version'")]).run(&[]);
    assert_ended(&outcome, 0);
    assert!(outcome.stdout.lines().any(|line| line.starts_with("interface:")), "{outcome:?}");
    assert_told(&outcome, "powered off after ");
}

/// A domain's file and no stdin: the guest runs, until it is asked to shut down.
fn headless() {
    let files = Files::new(&[("a", "")]);
    let mut child = paravane(&files.arguments(&[])).spawn().expect("paravane starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("booted in") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).expect("text"), 0, "it has ended");
    }
    kill_process(Pid::from_raw(child.id() as i32).expect("a process"), Signal::TERM).expect("it runs");
    let told: Vec<_> = stderr.lines().map_while(Result::ok).collect();
    let outcome = finish(child);
    assert_eq!(outcome.status, Some(128 + 15), "{told:?}");
    assert!(told.iter().any(|line| line == "paravane: ended by SIGTERM: the guest powered off"), "{told:?}");
    assert!(!outcome.stdout.contains("selftest: "), "{}", outcome.stdout);
}

/// The examples of the documentation, as they are found where its sources are not.
const ONE: &str = include_str!("../docs/examples/one.toml");
const TWO: &str = include_str!("../docs/examples/two.toml");

/// One attacks and crashes; the other tests each mechanism from inside, and gets on while it is attacked.
fn attacked(more: &[&str]) {
    let outcome = Files::with_texts(&[("one", ONE), ("two", TWO)]).run(more);
    assert_ended(&outcome, CRASHED);
    assert_told(&outcome, "one: d1 vCPU 0 crashed in Kernel mode");
    assert_told(&outcome, "one: crashed after ");
    assert_told(&outcome, "two: powered off after ");
    let tried = said(&outcome, "one").into_iter().find_map(|line| line.strip_prefix("attack: "));
    let (tried, refused) = tried.and_then(|line| line.split_once(" tried, ")).expect("a summary");
    assert_eq!(refused, format!("{tried} refused"));
    let passed = said(&outcome, "two")
        .iter()
        .any(|line| line.starts_with("selftest: ") && line.ends_with(", 0 failed"));
    assert!(passed, "{}", outcome.stdout);
    let lines = || outcome.stdout.lines().enumerate();
    let attacks: Vec<_> =
        lines().filter(|(_, line)| line.starts_with("one| ok ")).map(|(at, _)| at).collect();
    let (first, last) = (attacks[0], attacks[attacks.len() - 1]);
    let meanwhile = lines().filter(|&(at, line)| first < at && at < last && line.starts_with("two| "));
    assert!(meanwhile.count() > 0, "no progress during the attack: {}", outcome.stdout);
}

fn attack() {
    attacked(&[]);
}

fn attack_on_two_pcpus() {
    attacked(&["--pcpus", "2"]);
}

fn statuses() {
    let status = |first: &str, second: &str| {
        let exec = |commands: &str| format!("exec = '{commands}'");
        Files::new(&[("a", &exec(first)), ("b", &exec(second))]).run(&[])
    };
    assert_ended(&status("version", "poweroff 0"), 0);
    assert_ended(&status("poweroff 7", "version"), FAILED);
    assert_ended(&status("version", "crash"), CRASHED);
    let both = status("crash", "poweroff 7");
    assert_ended(&both, CRASHED);
    assert_told(&both, "b: powered off with status 7 after ");
}

/// Two guests that compute with different numbers, on one pcpu: a register that got lost would change a sum.
fn floating_point() {
    let exec = |number: u32| {
        format!("exec = 'spawn harmonic {number}; spawn vectors {number}; spawn harmonic {number}'")
    };
    let outcome = Files::new(&[("a", &exec(3)), ("b", &exec(1_000_003))]).run(&[]);
    assert_ended(&outcome, 0);
}

fn spinner() {
    let files = Files::new(&[("a", "exec = 'spawn spin 700'"), ("b", "exec = 'spawn count 5'")]);
    let outcome = files.run(&[]);
    assert_ended(&outcome, 0);
    assert_eq!(said(&outcome, "b").concat().matches("12345").count(), 1, "{}", outcome.stdout);
    let end = |name: &str| outcome.stderr.find(&format!("{name}: powered off")).expect("it ended");
    assert!(
        end("b") < end("a"),
        "the one that sleeps has to wait for the one that spins: {}",
        outcome.stderr
    );
}

fn pipe() {
    let files = Files::new(&[("a", "exec = 'version'"), ("b", ""), ("c", "cmdline = 'quiet'")]);
    let outcome = run_typing(&files.arguments(&[]), b"memory\n");
    assert_ended(&outcome, 0);
    let tested = |name| said(&outcome, name).iter().any(|line| line.starts_with("selftest: "));
    assert!(!tested("a") && !tested("b"), "{}", outcome.stdout);
    assert!(tested("c"), "an empty input runs selftest: {}", outcome.stdout);
}

fn reboot() {
    let files = Files::new(&[("a", "exec = 'version; reboot'"), ("b", "exec = 'spawn count 3'")]);
    let outcome = files.run(&[]);
    assert_ended(&outcome, 0);
    assert_eq!(outcome.stderr.matches("a: the bundled kernel booted").count(), 2, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("b: the bundled kernel booted").count(), 1, "{}", outcome.stderr);
}

fn three() {
    let exec = "exec = 'spawn count 3; selftest'";
    let outcome = Files::new(&[("a", exec), ("b", exec), ("c", exec)]).run(&["--pcpus", "2"]);
    assert_ended(&outcome, 0);
    for name in ["a", "b", "c"] {
        assert!(said(&outcome, name).iter().any(|line| line.ends_with(" 0 failed")), "{}", outcome.stdout);
    }
}

/// Somebody at a terminal types to one, then to the other, and leaves both.
fn switch() {
    let files = Files::new(&[("a", ""), ("b", "")]);
    let mut terminal = Terminal::open();
    let mut child = terminal.session(&files.arguments(&[]));
    let stdout = child.stdout.take().expect("a pipe");
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let wait_for = |wanted: &str| {
        let mut seen = String::new();
        while !seen.ends_with(wanted) {
            let line = lines.recv_timeout(Duration::from_secs(60));
            seen += &line.unwrap_or_else(|_| panic!("{wanted:?} does not come after: {seen}"));
        }
    };
    for (keys, echo) in [
        (&b"version\r"[..], "a| paravane> version"),
        (b"\x012version\r", "b| paravane> version"),
        (b"\x01nmemory\r", "a| paravane> memory"),
        (b"poweroff\r", "a| paravane> poweroff"),
        (b"\x01amemory\r", "b| paravane> memory"),
    ] {
        terminal.keyboard.write_all(keys).expect("a key");
        wait_for(echo);
        if echo.ends_with("poweroff") {
            // The keyboard goes to the one that is left.
            thread::sleep(Duration::from_millis(500));
        }
    }
    terminal.keyboard.write_all(b"\x1d").expect("a key");
    let outcome = finish(child);
    assert_ended(&outcome, 0);
    for line in ["keys go to b", "keys go to a", "a: powered off", "b: left after ", "Ctrl-A 1 to 2"] {
        assert_told(&outcome, line);
    }
    terminal.assert_restored();
}
