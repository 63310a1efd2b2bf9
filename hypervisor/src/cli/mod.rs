//! The command line: what the user says, sees, and gets as an exit status.
//!
//! Messages of the hypervisor go to stderr, output of the guest to stdout. Every error is one line.

mod args;
mod bench;
mod check;
mod command_line;
mod company;
mod console;
mod demo_disk;
mod desk;
mod disk;
mod domain_file;
mod escape;
mod exit;
mod files;
mod fit;
mod guest;
mod image;
mod kernel;
mod keyboard;
mod keys;
mod life;
mod manual;
mod marked;
mod new_file;
mod output;
mod printer;
mod run;
mod screen;
mod served;
mod session;
mod size;
mod sockets;
mod spec;
mod status;
mod stderr;
mod stdout;
mod terminal;
mod trace;
mod voice;
mod xs;

use args::{Args, Command};
use clap::Parser;
use hypervisor::contain::is_contained;
use status::{Failure, Status};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    install_panic_hook();
    start_log();
    let outcome = match Args::try_parse() {
        Ok(args) => dispatch(args.into_command()),
        Err(error) => return usage(&error),
    };
    let status = outcome.unwrap_or_else(|failure| failed(&failure));
    stderr::settle(LAST_MESSAGES);
    status.into()
}

/// How long the process waits for somebody to read its last messages.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

fn failed(Failure { status, message }: &Failure) -> Status {
    say(message);
    *status
}

fn dispatch(command: Command) -> Result<Status, Failure> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Kernel(args) => kernel::kernel(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Xs(args) => xs::xs(&args),
        Command::Man(args) => manual::man(&args),
        Command::Completions(args) => manual::completions(&args),
    }
}

/// Writes one line to stderr. One that cannot be written is nobody's loss.
pub fn say(message: &str) {
    stderr::write(format!("paravane: {message}\n").as_bytes());
}

/// Prints help and version as they are, and an error as one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let printed = stdout::printed(error.print().and_then(|()| io::stdout().flush()));
        return printed.map_or_else(|failure| failed(&failure), |_| Status::Fine).into();
    }
    let text = error.to_string();
    // The first paragraph is the error; usage and hints follow.
    let words = text.lines().take_while(|line| !line.trim().is_empty()).flat_map(str::split_whitespace);
    let line = words.collect::<Vec<_>>().join(" ");
    say(&format!("{} (see paravane --help)", line.strip_prefix("error: ").unwrap_or(&line)));
    Status::Usage.into()
}

/// A panic is a defect of ours, and the message is shown. One that ends a single guest goes on to do that; from any
/// other the terminal is restored, and the status is not Rust's 101.
fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        if !is_contained() {
            terminal::restore();
        }
        say(&format!("internal error, please report it: {panic}"));
        if !is_contained() {
            stderr::settle(LAST_MESSAGES);
            std::process::exit(Status::Configuration as i32);
        }
    }));
}

/// `PARAVANE_LOG` says what is traced, in the syntax of `tracing_subscriber::EnvFilter`.
fn start_log() {
    let Ok(filter) = std::env::var("PARAVANE_LOG") else { return };
    match EnvFilter::try_new(filter) {
        Ok(filter) => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| stderr::Log)
            .with_ansi(io::stderr().is_terminal())
            .log_internal_errors(false)
            .init(),
        Err(error) => say(&format!("PARAVANE_LOG is ignored: {error}")),
    }
}
