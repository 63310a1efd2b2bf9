//! `paravane xs`: the store of a running machine, for people and tools.

mod support;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::{Outcome, finish, main_one_at_a_time, needs_kvm, paravane, test};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

fn main() -> std::process::ExitCode {
    main_one_at_a_time(vec![
        needs_kvm("the_store_is_read_written_and_watched", read_write_watch),
        needs_kvm("a_guest_shuts_down_when_the_store_asks_it_to", shut_down),
        needs_kvm("several_that_run_must_be_told_apart", several),
        needs_kvm("a_start_that_lacks_descriptors_removes_nobody", few_descriptors),
        needs_kvm("one_that_is_stopped_holds_nobody_up", stopped),
        test("nobody_who_runs_is_an_error_that_says_where_it_looked", nobody),
        needs_kvm("a_directory_that_others_can_enter_is_not_used", others_can_enter),
    ])
}

fn command(runtime: &Path, arguments: &[&str]) -> Command {
    let mut command = paravane(arguments);
    command.env("XDG_RUNTIME_DIR", runtime);
    command
}

fn xs(runtime: &Path, arguments: &[&str]) -> Outcome {
    let arguments: Vec<_> = ["xs"].iter().chain(arguments).copied().collect();
    finish(command(runtime, &arguments).spawn().expect("paravane starts"))
}

/// What a successful `xs` prints.
#[track_caller]
fn said(runtime: &Path, arguments: &[&str]) -> String {
    let outcome = xs(runtime, arguments);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    outcome.stdout
}

/// A guest that waits, and whose name stands in the store already.
fn guest(runtime: &Path) -> Child {
    let child = command(runtime, &["run", "--exec", "sleep 50; poweroff"]).spawn().expect("paravane starts");
    let name = format!("{}/paravane/{}.xenstore", runtime.display(), child.id());
    let start = Instant::now();
    while xs(runtime, &["--socket", &name, "read", "/local/domain/1/name"]).status != Some(0) {
        assert!(start.elapsed() < LIMIT, "the store is not there");
        thread::sleep(Duration::from_millis(20));
    }
    child
}

fn end(mut guest: Child) {
    guest.kill().expect("it runs");
    guest.wait().expect("it is waited for");
}

fn read_write_watch() {
    let runtime = TempDir::new().expect("a directory");
    let (guest, runtime) = (guest(runtime.path()), runtime.path());
    assert_eq!(said(runtime, &["read", "/local/domain/1/name"]), "guest\n");
    let listed = said(runtime, &["ls", "/local/domain/1"]);
    assert!(listed.lines().any(|line| line == "name = \"guest\""), "{listed}");
    assert!(listed.lines().any(|line| line == "console = \"\"") && !listed.contains("ring-ref"), "{listed}");
    let all = said(runtime, &["ls", "-r", "/local"]);
    assert!(all.starts_with("domain = \"\"\n ") && all.contains("\n  name = \"guest\"\n"), "{all}");
    assert!(all.contains("\n   ring-ref = \""), "{all}");
    for arguments in [["xs", "ls", "/"], ["xs", "read", "/local/domain/1/name"], ["xs", "watch", "/tool"]] {
        let full = File::options().write(true).open("/dev/full").expect("a full device");
        let outcome = finish(command(runtime, &arguments).stdout(full).spawn().expect("paravane starts"));
        assert_eq!(outcome.status, Some(1), "{outcome:?}");
        assert!(outcome.stderr.starts_with("paravane: stdout: No space left"), "{outcome:?}");
    }
    let watching = command(runtime, &["xs", "watch", "/tool"]).stdout(Stdio::piped()).spawn();
    let mut watching = watching.expect("paravane starts");
    let mut events = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    let mut next = || events.next().expect("an event").expect("text");
    assert_eq!(next(), "/tool is not there", "the first event is of the watch itself");
    said(runtime, &["write", "/tool/answer", "-42"]);
    assert_eq!(next(), "/tool/answer = \"-42\"");
    said(runtime, &["write", "/tool/answer", "42"]);
    assert_eq!(next(), "/tool/answer = \"42\"");
    assert_eq!(said(runtime, &["read", "/tool/answer"]), "42\n");
    said(runtime, &["rm", "/tool/answer"]);
    let gone = xs(runtime, &["read", "/tool/answer"]);
    assert_eq!(gone.status, Some(1));
    assert!(gone.stderr.contains("/tool/answer") && gone.stderr.contains("ENOENT"), "{}", gone.stderr);
    assert_eq!(next(), "/tool/answer is not there");
    end(guest);
    assert!(events.next().is_none(), "the run has ended");
    let outcome = finish(watching);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(0), ""), "and so does the watch, well");
}

fn shut_down() {
    let runtime = TempDir::new().expect("a directory");
    let guest = guest(runtime.path());
    said(runtime.path(), &["write", "/local/domain/1/control/shutdown", "poweroff"]);
    let outcome = finish(guest);
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    let left = std::fs::read_dir(runtime.path().join("paravane")).expect("the directory stays").count();
    assert_eq!(left, 0, "the socket is gone");
}

fn several() {
    let runtime = TempDir::new().expect("a directory");
    let guests = [guest(runtime.path()), guest(runtime.path())];
    let outcome = xs(runtime.path(), &["ls", "/"]);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.stderr.contains("--socket"), "{}", outcome.stderr);
    let [first, second] = guests;
    end(first);
    // What it left behind is nobody's.
    assert!(said(runtime.path(), &["ls", "/local/domain"]).contains('1'));
    end(second);
}

/// Whatever a start cannot do, it does not take that for the death of others.
fn few_descriptors() {
    let runtime = TempDir::new().expect("a directory");
    let guest = guest(runtime.path());
    let socket = runtime.path().join(format!("paravane/{}.xenstore", guest.id()));
    for descriptors in 4..32 {
        let mut start = Command::new("sh");
        start.args(["-c", "ulimit -n \"$0\"; exec \"$@\"", &descriptors.to_string()]);
        start.args([env!("CARGO_BIN_EXE_paravane"), "run", "--exec", "poweroff"]);
        start.env("XDG_RUNTIME_DIR", runtime.path()).stdin(Stdio::null());
        finish(start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a shell"));
        assert!(socket.exists(), "gone after a start with {descriptors} descriptors");
    }
    end(guest);
}

fn stopped() {
    let runtime = TempDir::new().expect("a directory");
    let guest = guest(runtime.path());
    let socket = runtime.path().join(format!("paravane/{}.xenstore", guest.id()));
    let signal = |signal| kill_process(Pid::from_child(&guest), signal).expect("it is there");
    signal(Signal::STOP);
    let address = SocketAddrUnix::new(&socket).expect("a path");
    let connection = || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None);
    let connections = std::iter::repeat_with(connection).map(|socket| socket.expect("a socket"));
    let backlog: Vec<_> = connections.take_while(|client| connect(client, &address).is_ok()).collect();
    let other = command(runtime.path(), &["run", "--exec", "poweroff"]).spawn().expect("paravane starts");
    let other = finish(other);
    assert_eq!(other.status, Some(0), "{other:?}");
    assert!(socket.exists());
    let asked = xs(runtime.path(), &["ls", "/"]);
    assert_eq!(asked.status, Some(1));
    assert!(asked.stderr.contains("may be stopped"), "{}", asked.stderr);
    drop(backlog);
    signal(Signal::CONT);
    assert!(said(runtime.path(), &["ls", "/local/domain"]).contains('1'));
    end(guest);
}

fn nobody() {
    let runtime = TempDir::new().expect("a directory");
    let outcome = xs(runtime.path(), &["ls", "/"]);
    assert_eq!(outcome.status, Some(1));
    let directory = runtime.path().display().to_string();
    assert!(outcome.stderr.contains(&directory) && outcome.stderr.lines().count() == 1, "{}", outcome.stderr);
}

fn others_can_enter() {
    let runtime = TempDir::new().expect("a directory");
    let directory = runtime.path().join("paravane");
    std::fs::create_dir(&directory).expect("a directory");
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).expect("its mode is set");
    let run = command(runtime.path(), &["run", "--exec", "poweroff"]).spawn().expect("paravane starts");
    let outcome = finish(run);
    assert_eq!(outcome.status, Some(0), "the guest runs all the same: {outcome:?}");
    assert!(outcome.stderr.contains("only you can enter"), "{}", outcome.stderr);
    assert_eq!(std::fs::read_dir(&directory).expect("a directory").count(), 0);
}
