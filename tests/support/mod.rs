//! What the test programs share: telling "passed" from "could not be tried here", and running `paravane`.
#![allow(dead_code)] // no test program uses all of it

pub mod terminal;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes, on a slow host too.
const LIMIT: Duration = Duration::from_secs(120);

/// A test that needs `/dev/kvm`: where there is none, it counts as ignored, with the reason.
pub fn kvm_test(name: &str, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    skippable_kvm_test(name, || run().map(|()| Completion::Completed))
}

/// The same for a test that finds out for itself whether it can be tried here.
pub fn skippable_kvm_test(
    name: &str,
    run: impl FnOnce() -> Result<Completion, Failed> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => run(),
        Err(error) => Ok(Completion::ignored_with(format!("needs /dev/kvm: {error}"))),
    })
}

/// The same for a test that panics where it fails.
pub fn needs_kvm(name: &str, run: fn()) -> Trial {
    kvm_test(name, move || {
        run();
        Ok(())
    })
}

/// A test that needs no KVM.
pub fn test(name: &str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// Runs tests one at a time, unless told otherwise: each has pcpus of its own.
pub fn main_one_at_a_time(tests: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// Fails the test with a message.
pub fn fail<T>(message: impl Into<String>) -> Result<T, Failed> {
    Err(Failed::from(message.into()))
}

/// An error with this message, unless `condition` holds.
pub fn check(condition: bool, message: impl FnOnce() -> String) -> Result<(), Failed> {
    if condition { Ok(()) } else { fail(message()) }
}

/// `paravane` with these arguments, and nothing on stdin.
pub fn paravane(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paravane"));
    command.args(arguments).env_remove("PARAVANE_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a run of `paravane` ended, and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status; none where a signal ended it.
    pub status: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// Runs `paravane` to its end.
pub fn run(arguments: &[&str]) -> Outcome {
    finish(paravane(arguments).spawn().expect("paravane starts"))
}

/// Runs `paravane` to its end, with `typed` on stdin.
pub fn run_typing(arguments: &[&str], typed: &[u8]) -> Outcome {
    let mut child = paravane(arguments).stdin(Stdio::piped()).spawn().expect("paravane starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // It may end without having read everything.
    let _ = stdin.write_all(typed);
    drop(stdin);
    finish(child)
}

/// Waits for the end, and ends it by force where it takes too long.
pub fn finish(mut child: Child) -> Outcome {
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (stdout.join().expect("a reader"), stderr.join().expect("a reader"));
    Outcome { status: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return status;
        }
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            panic!("paravane did not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
