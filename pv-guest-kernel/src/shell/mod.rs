//! The shell: a line at a time from the console, or the commands of the kernel's command line.

mod command;
mod files;
mod lending;
mod line;
mod measure;
mod options;
pub mod power;
mod storage;

use alloc::string::String;

use crate::driver::console;
use crate::sched::executor;
use crate::sched::future::{Either, race};
use options::Options;

/// Starts the shell.
pub fn start() {
    let options = Options::from_command_line(&crate::start_info::command_line());
    executor::spawn("shell", async move {
        match &options.commands {
            Some(commands) => batch(commands).await,
            None if options.piped => piped().await,
            None => interactive().await,
        }
    });
}

/// Runs the commands of the kernel's command line; the first that fails is the last.
async fn batch(commands: &str) {
    power::off(if run_line(commands).await { 0 } else { 1 })
}

/// Runs what arrives on a console that is not a terminal. Without any input, tests the kernel.
async fn piped() {
    let mut input = line::Piped::default();
    let mut ok = true;
    while let Some(line) = input.next().await {
        ok = run_line(&line).await;
    }
    if !input.anything_received() {
        ok = run_line("selftest").await;
    }
    power::off(if ok { 0 } else { 1 })
}

async fn interactive() {
    println!("Type help for a list of commands.");
    loop {
        let line = line::edit("paravane> ").await;
        run_line(&line).await;
    }
}

/// Runs commands separated by semicolons up to the first that fails. Tells whether all went well.
async fn run_line(line: &str) -> bool {
    for command in line.split(';').map(str::trim).filter(|command| !command.is_empty()) {
        let result = match race(command::run(command), console::interrupted()).await {
            Either::First(result) => result,
            Either::Second(()) => Err(String::from("interrupted")),
        };
        if let Err(message) = result {
            let name = command.split_whitespace().next().unwrap_or_default();
            println!("{name}: {message}");
            return false;
        }
    }
    true
}
