//! `paravane run`.

use super::args::RunArgs;
use super::command_line::{Commands, compose};
use super::fit::machine_frames;
use super::image::Images;
use super::status::{Failure, Status};
use super::terminal;

/// Boots a guest and stays with it until its end.
pub fn run(args: &RunArgs) -> Result<Status, Failure> {
    let commands = match &args.exec {
        Some(exec) => Commands::Given(exec),
        None if terminal::is_terminal() => Commands::Typed,
        None => Commands::Piped,
    };
    let command_line = compose(&args.cmdline, commands)?;
    let images = Images::read(args)?;
    let kernel = images.kernel()?;
    let frames = machine_frames(args)?;
    let plan = images.plan(&kernel, args, command_line)?;
    terminal::end_on_signals().map_err(|e| Failure::about("signals", e))?;
    Err(Failure::new(format!("{frames} {plan:?} {} {}", images.name(), images.ramdisk().len())))
}
