//! A session with a guest, as its user has it: exit statuses, stdin, stdout, signals and the terminal.

mod support;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use support::terminal::Terminal;
use support::{Outcome, finish, needs_kvm, paravane, run, run_typing, skippable_kvm_test};

const CRASHED: i32 = 3;
const FAILED: i32 = 4;

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()).exit();
}

fn trials() -> Vec<Trial> {
    vec![
        needs_kvm("exec_runs_commands_and_powers_off_with_status_0", exec),
        needs_kvm("the_first_failing_command_is_the_last_and_gives_status_4", failing_command),
        needs_kvm("poweroff_with_a_code_gives_status_4", poweroff_code),
        needs_kvm("a_crash_is_reported_and_gives_status_3", crash),
        needs_kvm("reboot_builds_the_domain_anew", reboot),
        needs_kvm("exec_runs_once_whatever_reboots", reboot_in_exec),
        needs_kvm("a_full_device_as_stdout_is_an_error_of_the_host", full_device),
        needs_kvm("an_empty_stdin_runs_selftest", empty_stdin),
        needs_kvm("a_pipe_is_typed_to_its_end", typed),
        needs_kvm("the_last_line_of_a_pipe_gives_the_status", status_of_lines),
        needs_kvm("a_number_that_a_program_cannot_take_is_refused", program_numbers),
        skippable_kvm_test("all_memory_is_used", memory),
        needs_kvm("what_is_pasted_while_the_guest_sleeps_arrives", paste),
        needs_kvm("exec_leaves_stdin_alone", exec_leaves_stdin),
        needs_kvm("the_screen_and_the_last_line_are_on_stderr", screens),
        needs_kvm("statistics_name_every_hypercall", statistics),
        needs_kvm("a_signal_ends_the_run_with_128_plus_its_number", signals),
        needs_kvm("every_signal_that_ends_a_process_ends_it_in_order", every_signal),
        needs_kvm("a_file_size_limit_is_an_error_of_the_write", file_size_limit),
        needs_kvm("a_raw_terminal_is_raw_again_when_the_process_goes_on", goes_on),
        needs_kvm("quiet_tells_nothing_of_a_run_that_ends_well", quiet),
        needs_kvm("json_tells_the_end_and_the_statistics_to_programs", json),
        needs_kvm("a_reader_who_has_seen_enough_ends_the_run_cleanly", broken_pipe),
        needs_kvm("ctrl_bracket_leaves_and_the_terminal_is_as_before", leave),
        needs_kvm("a_line_is_edited_on_a_terminal", edited),
        needs_kvm("a_signal_restores_the_terminal", signal_restores),
        needs_kvm("a_signal_that_stands_for_a_defect_restores_the_terminal", defect_restores),
        needs_kvm("a_stdin_that_is_a_terminal_is_left_alone_by_exec", exec_on_terminal),
    ]
}

#[track_caller]
fn assert_ended(outcome: &Outcome, status: i32) {
    assert_eq!(outcome.status, Some(status), "{}\n{}", outcome.stderr, outcome.stdout);
}

fn exec() {
    let outcome = run(&["run", "--exec", "version; poweroff"]);
    assert_ended(&outcome, 0);
    assert!(outcome.stdout.contains("Xen") || outcome.stdout.contains("Paravane"), "{outcome:?}");
}

fn failing_command() {
    let outcome = run(&["--exec", "frobnicate; version"]);
    assert_ended(&outcome, FAILED);
    assert!(outcome.stdout.contains("frobnicate"), "{outcome:?}");
}

fn poweroff_code() {
    assert_ended(&run(&["--exec", "poweroff 7"]), FAILED);
    assert_ended(&run(&["--exec", "poweroff 0"]), 0);
}

fn crash() {
    let outcome = run(&["--exec", "crash"]);
    assert_ended(&outcome, CRASHED);
    for word in ["crashed", "rip", "rsp", "#0", "pv_guest_kernel::", "the last lines of its console:\n  | "] {
        assert!(outcome.stderr.contains(word), "{word:?} is missing: {}", outcome.stderr);
    }
}

/// The second life is told by its first words, and ended by its user.
fn reboot() {
    let mut child = paravane(&[]).stdin(Stdio::piped()).spawn().expect("paravane starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"reboot\n").expect("the guest listens");
    let booted = |line: &str| line.contains("booted");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    wait_for_line(&mut stderr, booted);
    wait_for_line(&mut stderr, booted);
    stdin.write_all(b"poweroff\n").expect("the guest listens");
    assert_ended(&finish(child), 0);
}

fn reboot_in_exec() {
    let outcome = run(&["--exec", "version; reboot"]);
    assert_ended(&outcome, 0);
    assert_eq!(outcome.stdout.matches("interface:").count(), 1, "{outcome:?}");
    assert_eq!(outcome.stderr.matches("booted in").count(), 2, "{outcome:?}");
    // The last line tells of the last life, in which nothing was left to do.
    let only = run(&["--exec", "poweroff"]);
    assert_ended(&only, 0);
    assert_eq!(validated(&outcome), validated(&only));
}

/// What the last line says of page-table entries.
fn validated(outcome: &Outcome) -> &str {
    let last =
        outcome.stderr.lines().find(|line| line.starts_with("powered off after")).expect("a last line");
    last.rsplit_once("hypercalls, ").expect("a count").1
}

fn full_device() {
    let full = File::options().write(true).open("/dev/full").expect("a full device");
    let child = paravane(&["--exec", "version; poweroff"]).stdout(full).spawn().expect("paravane starts");
    let outcome = finish(child);
    assert_ended(&outcome, 1);
    assert!(outcome.stderr.contains("paravane: the guest's output: No space left"), "{outcome:?}");
}

fn empty_stdin() {
    let outcome = run_typing(&[], b"");
    assert!(outcome.stdout.contains("selftest: "), "{outcome:?}");
    assert_ended(&outcome, 0);
}

fn typed() {
    let outcome = run_typing(&[], b"version\nmemory\n");
    assert_ended(&outcome, 0);
    assert!(!outcome.stdout.contains("selftest: "), "{outcome:?}");
}

fn status_of_lines() {
    let long = format!("version {}\n", "x".repeat(2000));
    for (lines, status, versions) in [
        ("frobnicate\nversion\n", 0, 1),
        ("version\nfrobnicate\n", FAILED, 1),
        ("version; frobnicate; version\n", FAILED, 1),
        ("frobnicate\n\n", FAILED, 0),
        ("frobnicate\nexit\nversion\n", FAILED, 0),
        ("frobnicate\nversion; exit; version\n", 0, 1),
        ("exit 7\nversion\n", FAILED, 0),
        ("frobnicate\nexit 0\n", 0, 0),
        (&long, FAILED, 0),
    ] {
        let outcome = run_typing(&[], lines.as_bytes());
        assert_eq!(outcome.status, Some(status), "{lines:?}: {outcome:?}");
        assert_eq!(outcome.stdout.matches("interface:").count(), versions, "{lines:?}: {outcome:?}");
    }
}

fn program_numbers() {
    for (command, refusal) in [
        ("spawn count 99", "spawn: count takes a number from 0 to 9"),
        ("spawn count -1", "spawn: -1 is not a number in range"),
        ("spawn count 10 &", "spawn: count takes a number from 0 to 9"),
        ("spawn hello 1", "spawn: hello takes no number"),
        ("spawn spin 18446744073709551615", "spawn: spin takes a number from 0 to"),
    ] {
        let outcome = run(&["--exec", command]);
        assert_ended(&outcome, FAILED);
        assert!(outcome.stdout.contains(refusal), "{command}: {outcome:?}");
    }
    let outcome = run(&["--exec", "spawn count 9"]);
    assert_ended(&outcome, 0);
    let counted: String = (1..=9).map(|number| format!("{number}\n")).collect();
    assert!(outcome.stdout.ends_with(&counted), "{outcome:?}");
}

/// Of a domain with more than a GiB, which the kernel maps elsewhere, all is free but what the kernel needs to say so.
fn memory() -> Result<Completion, Failed> {
    const NEEDED_KIB: u64 = 8 << 20;
    let host = std::fs::read_to_string("/proc/meminfo")?;
    let total = host.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).ok_or("MemTotal")?;
    if total < NEEDED_KIB {
        return Ok(Completion::ignored_with("the host has less than 8 GiB of memory"));
    }
    let free = |memory: &str, commands: &str| {
        let outcome = run(&["--memory", memory, "--exec", commands]);
        assert_ended(&outcome, 0);
        let line = outcome.stdout.lines().last().expect("a line");
        let words = line.split([' ', ',']).collect::<Vec<_>>();
        let mib = words.windows(2).find(|words| words[0].parse::<u64>().is_ok() && words[1] == "MiB");
        let number = if line.starts_with("memory:") { words.get(4) } else { mib.map(|words| &words[0]) };
        number.and_then(|number| number.parse::<u64>().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    assert!(free("6G", "memory") > 5900, "a hundredth is tables");
    assert!(free("1200M", "memory check") > 1100);
    assert_ended(&run(&["--memory", "1500M", "--exec", "selftest"]), 0);
    Ok(Completion::Completed)
}

/// Somebody pastes while the guest sleeps: each line arrives, and whole.
fn paste() {
    const LINES: usize = 700;
    let mut terminal = Terminal::open();
    let child = terminal.session(&[]);
    let mut text = "sleep 2\r".to_owned();
    (0..LINES).for_each(|line| text += &format!("no-such-command-{line} with a few words more\r"));
    terminal.keyboard.write_all((text + "poweroff\r").as_bytes()).expect("keys");
    let outcome = finish(child);
    assert_ended(&outcome, 0);
    let typed =
        |line: &usize| outcome.stdout.contains(&format!("no-such-command-{line} with a few words more"));
    assert_eq!((0..LINES).filter(|line| !typed(line)).collect::<Vec<_>>(), Vec::<usize>::new());
}

fn exec_leaves_stdin() {
    let mut child = paravane(&["--exec", "poweroff"]).stdin(Stdio::piped()).spawn().expect("paravane starts");
    // Held open and empty: whoever read it would wait for ever.
    let _stdin = child.stdin.take();
    assert_ended(&finish(child), 0);
}

fn screens() {
    let outcome = run(&["--exec", "poweroff"]);
    for word in ["Paravane", "KVM", "hypercalls by", "booted in", "entries validated", "powered off", "exits"]
    {
        assert!(outcome.stderr.contains(word), "{word:?} is missing: {}", outcome.stderr);
        assert!(!outcome.stdout.contains("booted in"), "{}", outcome.stdout);
    }
}

/// The numbers behind the names add up to the last line's, and a spawn makes the calls that docs/spawn.md tells of.
fn statistics() {
    let counts = |exec: &str| -> (BTreeMap<String, u64>, u64) {
        let outcome = run(&["--statistics", "--exec", exec]);
        let number = |text: &str| text.replace(',', "").parse::<u64>().expect("a number");
        let of = |start: &str| {
            let line = outcome.stderr.lines().find(|line| line.starts_with(start)).expect("the line");
            line.to_owned()
        };
        let named = of("hypercalls: ")["hypercalls: ".len()..]
            .split(", ")
            .map(|entry| entry.rsplit_once(' ').expect("a name and a number"))
            .map(|(name, times)| (name.to_owned(), number(times)))
            .collect();
        let last = of("powered off after");
        let words: Vec<&str> = last.split(' ').collect();
        let at = words.iter().position(|word| *word == "hypercalls,").expect("hypercalls");
        (named, number(words[at - 1]))
    };
    let (idle, total) = counts("poweroff");
    assert_eq!(idle.values().sum::<u64>(), total);
    let (spawn, _) = counts("spawn hello; poweroff");
    let more = |name: &str| spawn.get(name).unwrap_or(&0) - idle.get(name).unwrap_or(&0);
    assert_eq!(["MMU_UPDATE", "MMUEXT_OP"].map(more), [2, 4]);
}

/// A run that goes on until something ends it, and has begun.
fn endless() -> (Child, BufReader<impl Read>) {
    let mut child = paravane(&["--exec", "sleep 1000000"]).spawn().expect("paravane starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    wait_for_line(&mut stderr, |line| line.contains("booted"));
    (child, stderr)
}

#[track_caller]
fn wait_for_line(from: &mut impl BufRead, wanted: impl Fn(&str) -> bool) {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(from.read_line(&mut line).expect("text"), 0, "it ended after: {seen}");
        if wanted(&line) {
            return;
        }
        seen += &line;
    }
}

fn kill(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).expect("a process");
    kill_process(pid, signal).expect("it is there");
}

fn signals() {
    for (signal, number) in [(Signal::INT, 2), (Signal::TERM, 15), (Signal::HUP, 1)] {
        let (child, mut stderr) = endless();
        kill(&child, signal);
        let outcome = finish(child);
        let mut rest = String::new();
        let _ = stderr.read_to_string(&mut rest);
        assert_eq!(outcome.status, Some(128 + number), "{rest}");
        let how = if signal == Signal::HUP { "was ended" } else { "powered off" };
        assert!(rest.contains(&format!(": the guest {how}")), "{rest}");
    }
}

/// None of them leaves the terminal raw, and each says what it was.
fn every_signal() {
    let names = ["SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGXCPU", "SIGVTALRM", "SIGPROF"];
    let signals = [
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::XCPU,
        Signal::VTALARM,
        Signal::PROF,
    ];
    for (signal, name) in signals.into_iter().zip(names) {
        let terminal = Terminal::open();
        let child = terminal.session(&[]);
        kill(&child, signal);
        let outcome = finish(child);
        assert_ended(&outcome, 128 + signal.as_raw());
        assert!(outcome.stderr.contains(&format!("ended by {name}: ")), "{}", outcome.stderr);
        terminal.assert_restored();
    }
}

/// The limit is above the machine's memory, which is a file, too.
fn file_size_limit() {
    let image = tempfile::NamedTempFile::new().expect("a file");
    image.as_file().set_len(4 << 30).expect("room");
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "ulimit -f 1048576; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_paravane"),
        "run",
        "--disk",
    ]);
    command.arg(image.path()).args(["--exec", "dd write xvda 6000000"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let outcome = finish(child.expect("a shell"));
    assert_ended(&outcome, FAILED);
}

fn goes_on() {
    let mut terminal = Terminal::open();
    let child = terminal.session(&[]);
    terminal.cook();
    kill(&child, Signal::CONT);
    terminal.wait_until_raw();
    terminal.keyboard.write_all(b"\x1d").expect("a key");
    assert_ended(&finish(child), 0);
    terminal.assert_restored();
}

fn quiet() {
    let outcome = run(&["--quiet", "--exec", "version"]);
    assert_ended(&outcome, 0);
    assert_eq!(outcome.stderr, "");
    assert!(outcome.stdout.contains("interface:"), "{outcome:?}");
}

fn json() {
    let outcome = run(&["--json", "--statistics", "--exec", "poweroff 7"]);
    assert_ended(&outcome, FAILED);
    let told: serde_json::Value = serde_json::from_str(&outcome.stderr).expect("one value");
    assert_eq!((&told["domain"], &told["status"]), (&"guest".into(), &4.into()));
    assert_eq!(told["end"], "powered off with status 7");
    let calls = told["statistics"]["hypercalls"].as_object().expect("an object");
    assert_eq!(calls.values().filter_map(serde_json::Value::as_u64).sum::<u64>(), told["hypercalls"]);
    let brief: serde_json::Value =
        serde_json::from_str(&run(&["--json", "--exec", ""]).stderr).expect("one value");
    assert_eq!((&brief["end"], brief.get("statistics")), (&"powered off".into(), None));
}

fn broken_pipe() {
    let mut child = paravane(&[]).stdin(Stdio::piped()).spawn().expect("paravane starts");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().expect("a pipe");
    let _ = stdin.write_all(b"version\n");
    let outcome = finish(child);
    assert_ended(&outcome, 0);
    assert!(!outcome.stderr.contains("error"), "{outcome:?}");
    drop(stdin);
}

fn leave() {
    let mut terminal = Terminal::open();
    let child = terminal.session(&[]);
    terminal.keyboard.write_all(b"version\r\x1d").expect("a key");
    assert_ended(&finish(child), 0);
    terminal.assert_restored();
}

/// Cursor keys, Tab, the history, characters of several bytes, and Ctrl-D at the end.
fn edited() {
    let mut terminal = Terminal::open();
    let child = terminal.session(&[]);
    let keys = [
        "vrsion\x1b[D\x1b[D\x1b[D\x1b[D\x1b[De\r",
        "spa\thel\t\r",
        "\x1b[A\x1b[A\r",
        "grüße\x7f\x7f\x7f\x7f\x7fsle\t0\r",
        "\x04",
    ];
    terminal.keyboard.write_all(keys.concat().as_bytes()).expect("keys");
    let outcome = finish(child);
    assert_ended(&outcome, 0);
    assert_eq!(outcome.stdout.matches("interface:").count(), 2, "typed, and from the history: {outcome:?}");
    assert!(outcome.stdout.contains("\nhello from user mode"), "{outcome:?}");
    assert!(!outcome.stdout.contains("unknown command"), "{outcome:?}");
    terminal.assert_restored();
}

fn signal_restores() {
    let terminal = Terminal::open();
    let child = terminal.session(&[]);
    kill(&child, Signal::TERM);
    assert_ended(&finish(child), 128 + 15);
    terminal.assert_restored();
}

fn defect_restores() {
    for signal in [Signal::ABORT, Signal::BUS, Signal::FPE, Signal::ILL, Signal::SYS, Signal::TRAP] {
        let terminal = Terminal::open();
        let child = terminal.session(&[]);
        kill(&child, signal);
        let outcome = finish(child);
        assert_eq!(outcome.status, None, "it ends by {signal:?}: {outcome:?}");
        terminal.assert_restored();
    }
}

fn exec_on_terminal() {
    let terminal = Terminal::open();
    let child = terminal.spawn(&["--exec", "poweroff"]);
    assert_ended(&finish(child), 0);
    terminal.assert_restored();
}
