//! The shell: a line at a time from the console, or the commands of the kernel's command line.

mod command;
mod complete;
mod editor;
mod files;
mod lending;
mod line;
mod measure;
mod options;
pub mod power;
mod storage;
mod text;

use alloc::string::String;

use crate::driver::console;
use crate::sched::executor;
use crate::sched::future::{Either, race};
use editor::{Editor, Entered};
use options::Options;

/// Starts the shell's task: it runs the commands of the kernel's command line, or those that are typed.
pub fn start() {
    let options = Options::from_command_line(&crate::start_info::command_line());
    // The self-test looks at what is that vCPU's own.
    executor::spawn_on_first("shell", async move {
        match &options.commands {
            Some(commands) => batch(commands).await,
            None if options.piped => piped().await,
            None => interactive().await,
        }
    });
}

/// Runs the commands of the kernel's command line; the first that fails is the last.
async fn batch(commands: &str) {
    power::off(status(run_line(commands, true).await))
}

/// Runs what arrives on a console that is not a terminal. Without any input, tests the kernel.
async fn piped() {
    let mut input = line::Piped::default();
    let mut ok = true;
    while let Some(line) = input.next().await {
        ok = match line {
            Ok(line) => run_line(&line, ok).await,
            Err(line::TooLong) => {
                println!("a line of more than {} bytes is not run", editor::LIMIT);
                false
            }
        };
    }
    if !input.anything_received() {
        ok = run_line("selftest", ok).await;
    }
    power::off(status(ok))
}

async fn interactive() {
    println!("Type help for a list of commands.");
    let mut editor = Editor::new("paravane> ");
    let mut ok = true;
    while let Entered::Line(line) = line::edit(&mut editor).await {
        ok = run_line(&line, ok).await;
    }
    power::off(status(ok))
}

/// What the domain ends with.
fn status(ok: bool) -> u8 {
    if ok { 0 } else { 1 }
}

/// Runs commands separated by semicolons up to the first that fails. Tells whether all went well; without a command, what
/// came before is what counts.
async fn run_line(line: &str, mut ok: bool) -> bool {
    for command in line.split(';').map(str::trim).filter(|command| !command.is_empty()) {
        if command == "exit" {
            power::off(status(ok));
        }
        let result = match race(command::run(command), console::interrupted()).await {
            Either::First(result) => result,
            Either::Second(()) => Err(String::from("interrupted")),
        };
        if let Err(message) = result {
            let name = command.split_whitespace().next().unwrap_or_default();
            println!("{name}: {message}");
            return false;
        }
        ok = true;
    }
    ok
}
