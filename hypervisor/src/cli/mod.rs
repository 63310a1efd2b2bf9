//! The command line: what the user says, sees, and gets as an exit status.
//!
//! Messages of the hypervisor go to stderr, output of the guest to stdout. Every error is one line.

mod commands;
mod files;
mod guests;
mod input;
mod new_file;
mod printing;
mod status;
mod toolstack;
mod trace;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use commands::args::{Args, Command};
use commands::{bench, check, kernel, manual, run, xs};
use hypervisor::contain::is_contained;
use input::terminal;
use printing::{log, stderr, stdout};
use status::{Failure, Status};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;
use toolstack::{confine, signals};

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    install_panic_hook();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let ready = signals::catch_file_size_limit().and_then(|()| confine::confine());
    let ready = ready.and_then(|()| log::start(args.verbosity()));
    let outcome = ready.and_then(|()| dispatch(args.into_command()));
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
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // It goes to stderr: one that cannot be written is nobody's loss.
        let _ = error.print();
        return Status::Usage.into();
    }
    say(&one_line(&error.to_string(), std::env::args()));
    Status::Usage.into()
}

/// What clap says in paragraphs: the error, suggestions, and of which command there is help.
fn one_line(text: &str, mut typed: impl Iterator<Item = String>) -> String {
    let joined = |lines: &str| lines.split_whitespace().collect::<Vec<_>>().join(" ");
    let error = joined(text.split("\n\n").next().unwrap_or_default());
    let tips = text.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let tips: String = tips.map(|tip| format!("; {}", joined(tip))).collect();
    let commands = Args::command();
    let chosen = typed.find_map(|word| commands.find_subcommand(word).map(clap::Command::get_name));
    let command = chosen.map_or_else(String::new, |name| format!(" {name}"));
    format!("{}{tips} (see paravane{command} --help)", error.strip_prefix("error: ").unwrap_or(&error))
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
            std::process::exit(Status::Configuration.code().into());
        }
    }));
}
