//! What is written where: no file of the user's is destroyed unasked, none is left in part, and what cannot be written
//! is an error.

mod support;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::{Outcome, finish, main_one_at_a_time, needs_kvm, paravane, run, test};
use tempfile::TempDir;

const CONFIGURATION: i32 = 1;
const USAGE: i32 = 2;

fn main() -> ExitCode {
    main_one_at_a_time(vec![
        test("a_disk_is_never_made_a_trace", disk_as_trace),
        test("a_file_of_another_kind_stays_unless_forced", other_kinds),
        test("a_kernel_that_does_not_fit_leaves_no_part", kernel_without_room),
        needs_kvm("a_machine_that_exceeds_the_limit_of_a_file_is_told", machine_without_room),
        test("a_dash_is_stdout_and_no_file", dash),
        test("stdout_that_is_full_is_an_error", full_stdout),
        test("a_reader_who_has_gone_is_none", no_reader),
        needs_kvm("check_tells_of_a_full_stdout", full_check),
        needs_kvm("a_trace_that_is_cut_short_is_told_and_whole", trace_without_room),
    ])
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[track_caller]
fn assert_refused(outcome: &Outcome, status: i32, words: &[&str]) {
    assert_eq!(outcome.status, Some(status), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "one line: {outcome:?}");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is missing: {outcome:?}");
    }
}

/// The names in a directory.
fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<_> = entries.map(name).map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn disk_as_trace() {
    let directory = directory();
    let image = directory.path().join("v.img");
    let bytes = vec![0xa5; 1 << 20];
    fs::write(&image, &bytes).expect("an image");
    let (path, link) = (text(&image).to_owned(), directory.path().join("link"));
    std::os::unix::fs::symlink(&image, &link).expect("a link");
    for disk in [path.clone(), format!("{path},ro")] {
        for trace in [&path, text(&link)] {
            for force in [&[][..], &["--force"]] {
                let arguments = ["run", "--exec", "poweroff", "--disk", &disk, "--trace", trace];
                let outcome = run(&[&arguments, force].concat());
                assert_refused(&outcome, CONFIGURATION, &["--trace", trace, "in use by domain guest"]);
                assert!(fs::read(&image).expect("an image") == bytes, "it has changed");
            }
        }
    }
    assert_eq!(names(&directory), ["link", "v.img"]);
}

fn other_kinds() {
    let directory = directory();
    let path = directory.path().join("precious");
    fs::write(&path, "precious").expect("a file");
    let trace = run(&["run", "--exec", "poweroff", "--trace", text(&path)]);
    assert_refused(&trace, CONFIGURATION, &["--trace: ", text(&path), "is not a trace", "--force"]);
    let kernel = run(&["kernel", "-o", text(&path)]);
    assert_refused(&kernel, CONFIGURATION, &[text(&path), "is not a kernel of Paravane", "--force"]);
    assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
    for arguments in [&["kernel", "--force", "-o", text(&path)][..], &["kernel", "-o", text(&path)]] {
        let outcome = run(arguments);
        assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(fs::read(&path).expect("a file").starts_with(b"\x7fELF"));
    }
    let me = std::env::current_exe().expect("this program");
    let other = directory.path().join("program");
    fs::copy(&me, &other).expect("a copy");
    assert_refused(&run(&["kernel", "-o", text(&other)]), CONFIGURATION, &["is not a kernel of Paravane"]);
    assert_eq!(names(&directory), ["precious", "program"]);
}

/// `paravane`, before which a shell does something.
fn after(first: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{first} exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_paravane")]).env_remove("PARAVANE_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Writes the kernel there, with room for 4 KiB.
fn write_kernel_without_room(path: &Path) -> Outcome {
    let mut command = after("ulimit -f 8;");
    finish(command.args(["kernel", "-o", text(path)]).spawn().expect("a shell"))
}

fn kernel_without_room() {
    let directory = directory();
    let path = directory.path().join("kernel");
    assert_refused(&write_kernel_without_room(&path), CONFIGURATION, &[text(&path), "too large"]);
    assert!(names(&directory).is_empty());
    assert_eq!(run(&["kernel", "-o", text(&path)]).status, Some(0));
    let bytes = fs::read(&path).expect("a kernel");
    assert_refused(&write_kernel_without_room(&path), CONFIGURATION, &[text(&path)]);
    assert!(fs::read(&path).expect("a kernel") == bytes, "the old one still stands");
    assert_eq!(names(&directory), ["kernel"]);
    assert_refused(&run(&["kernel", "-o", "/dev/full"]), CONFIGURATION, &["/dev/full: No space left"]);
}

/// The machine's memory is a file, too.
fn machine_without_room() {
    let mut command = after("ulimit -f 8;");
    let outcome = finish(command.args(["run", "--exec", "version"]).spawn().expect("a shell"));
    assert_refused(&outcome, CONFIGURATION, &["machine memory", "limit of a file's size (ulimit -f)"]);
}

fn dash() {
    let directory = directory();
    let in_directory = |arguments: &[&str]| {
        finish(paravane(arguments).current_dir(&directory).spawn().expect("paravane starts"))
    };
    assert!(in_directory(&["kernel", "-o", "-"]).stdout.contains("ELF"));
    let trace = in_directory(&["run", "--exec", "poweroff", "--trace", "-"]);
    assert_refused(&trace, USAGE, &["--trace: - is stdout"]);
    assert!(names(&directory).is_empty());
}

/// How `paravane` ends whose stdout takes nothing.
fn to_full_device(arguments: &[&str]) -> Outcome {
    let full = File::options().write(true).open("/dev/full").expect("a full device");
    finish(paravane(arguments).stdout(full).spawn().expect("paravane starts"))
}

fn full_stdout() {
    for arguments in
        [&["--help"][..], &["run", "--help"], &["help", "kernel"], &["--version"], &["kernel", "-o", "-"]]
    {
        assert_refused(&to_full_device(arguments), CONFIGURATION, &["paravane: stdout: No space left"]);
    }
    // Before anything is measured.
    assert_refused(&to_full_device(&["bench"]), CONFIGURATION, &["paravane: stdout: No space left"]);
}

fn full_check() {
    for arguments in [&["check"][..], &["check", "--json"]] {
        assert_refused(&to_full_device(arguments), CONFIGURATION, &["paravane: stdout: No space left"]);
    }
}

fn no_reader() {
    for arguments in [&["--help"][..], &["--version"], &["kernel", "-o", "-"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let outcome = finish(paravane(arguments).stdout(writer).spawn().expect("paravane starts"));
        assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// There is no room any more soon after the guest has started: the machine's own memory counts, too.
fn trace_without_room() {
    let directory = directory();
    let path = directory.path().join("trace");
    let mut command = after("");
    command.args(["run", "--exec", "spawn spin 500; attack", "--trace", text(&path)]);
    let mut child = command.spawn().expect("a shell");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut lines = String::new();
    while !lines.contains("booted in") {
        assert_ne!(stderr.read_line(&mut lines).expect("text"), 0, "{lines}");
    }
    let length = || fs::metadata(&path).expect("a trace").len();
    let start = Instant::now();
    while length() < 4096 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is traced");
        thread::sleep(Duration::from_millis(5));
    }
    let room = Rlimit { current: Some(length() + 1000), maximum: None };
    prlimit(Some(Pid::from_child(&child)), Resource::Fsize, room).expect("a limit");
    stderr.read_to_string(&mut lines).expect("text");
    assert_eq!(finish(child).status, Some(CONFIGURATION), "{lines}");
    let last = lines.lines().last().expect("a line");
    assert!(last.starts_with("paravane: --trace: ") && last.contains("cut short: File too large"), "{last}");
    let trace: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).expect("a trace")).expect("it is whole");
    assert!(trace["traceEvents"].as_array().is_some_and(|events| events.len() > 5));
    assert_eq!(names(&directory), ["trace"]);
}
