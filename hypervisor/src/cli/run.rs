//! `paravane run`.

use super::args::RunArgs;
use super::command_line::{Commands, compose};
use super::exit::Exit;
use super::fit::machine_frames;
use super::image::Images;
use super::keyboard::Keyboard;
use super::screen::{self, Summary};
use super::session::Session;
use super::status::{Failure, Status};
use super::terminal::{self, Raw};
use backends::console::Input;
use hypervisor::assemble::{self, assemble};
use hypervisor::builder::Plan;
use hypervisor::domain::{DomainEnd, End};
use pv_abi::sched::ShutdownReason;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Boots a guest and stays with it until its end.
pub fn run(args: &RunArgs) -> Result<Status, Failure> {
    let commands = match &args.exec {
        Some(exec) => Commands::Given(exec),
        None if terminal::is_terminal() => Commands::Typed,
        None => Commands::Piped,
    };
    // All that can be wrong with the configuration is found before the host is asked for anything.
    let frames = machine_frames(args)?;
    let images = Images::read(args)?;
    let kernel = images.kernel()?;
    let plan = |commands| images.plan(&kernel, args, compose(&args.cmdline, commands)?);
    let first = plan(commands)?;

    let machine = assemble::machine(frames, args.pcpus).map_err(Failure::new)?;
    screen::title(&machine.report);
    let hypervisor = Arc::new(assemble(machine).map_err(Failure::new)?);

    let of_terminal = |error: io::Error| Failure::about("the terminal", error);
    terminal::end_on_signals().map_err(of_terminal)?;
    let _raw = (commands == Commands::Typed).then(Raw::enter).transpose().map_err(of_terminal)?;
    let exit = Arc::new(Exit::new(&hypervisor));
    let input = Arc::new(Input::default());
    let leave = Arc::clone(&exit);
    let keyboard = Keyboard::start(commands, Arc::clone(&input), move || leave.leave());
    let keyboard = keyboard.map_err(of_terminal)?;
    let session =
        Session { hypervisor, images: &images, kernel: &kernel, vcpus: args.vcpus, input, exit, commands };
    stay(&session, &keyboard, first, || plan(commands.after_a_reboot()))
}

/// Lives the guest's lives: one that reboots is built anew, by the plan that `again` makes.
fn stay(
    session: &Session<'_>,
    keyboard: &Keyboard,
    first: Plan,
    again: impl Fn() -> Result<Plan, Failure>,
) -> Result<Status, Failure> {
    let mut plan = first;
    loop {
        let born = Instant::now();
        let end = session.live(&plan)?;
        if let Some(failure) = session.exit.take_failure() {
            return Err(failure);
        }
        let left = session.exit.has_left();
        if left || end.reason() != ShutdownReason::REBOOT {
            return Ok(tell(&end, born.elapsed(), left));
        }
        keyboard.guest_restarts();
        plan = again()?;
    }
}

/// Tells how it ended, and what that means to whoever started it.
fn tell(end: &DomainEnd, time: Duration, left: bool) -> Status {
    if let Some(report) = end.report() {
        screen::show(&report.to_string());
    }
    let (status, how) = match &end.end {
        End::Destroyed if left => (Status::Fine, "left".to_owned()),
        End::Shutdown(ShutdownReason::POWEROFF) if end.status == 0 => {
            (Status::Fine, "powered off".to_owned())
        }
        End::Shutdown(ShutdownReason::POWEROFF) => {
            (Status::Failed, format!("powered off with status {}", end.status))
        }
        End::Shutdown(ShutdownReason::CRASH | ShutdownReason::WATCHDOG) | End::Crashed(_) => {
            (Status::Crashed, "crashed".to_owned())
        }
        other => (Status::Failed, other.to_string()),
    };
    let statistics = &end.statistics;
    screen::ended(
        &how,
        Summary {
            time,
            exits: statistics.exits.iter().map(|(_, count)| count).sum(),
            hypercalls: statistics.hypercalls.iter().map(|(_, count)| count).sum(),
            validated: statistics.validated,
            refused: statistics.refused,
        },
    );
    status
}
