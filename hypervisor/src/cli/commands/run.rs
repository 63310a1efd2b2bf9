//! `paravane run`.

use super::args::{RunArgs, RunCommand};
use super::console::Console;
use crate::cli::guests::fit::machine_frames;
use crate::cli::guests::guest::Guest;
use crate::cli::guests::image::Images;
use crate::cli::printing::screen::{self, Telling, Validation};
use crate::cli::printing::stderr;
use crate::cli::say;
use crate::cli::status::{Failure, Status};
use crate::cli::toolstack::sockets;
use crate::cli::toolstack::together::run_together;
use crate::cli::trace::Tracing;
use backends::xenstore::StoreHandle;
use hypervisor::assemble::{self, assemble};
use hypervisor::builder::Plan;
use hypervisor::control::Hypervisor;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Boots guests and stays with them until their end.
pub fn run(command: &RunCommand) -> Result<Status, Failure> {
    let options = &command.options;
    // All that can be wrong with the configuration is found before the host is asked for anything.
    let specs = command.specs()?;
    let frames = machine_frames(&specs, options)?;
    let images = specs.iter().map(Images::read).collect::<Result<Vec<_>, _>>()?;
    let guests = specs.iter().zip(&images).map(|(spec, images)| Guest::new(spec, images));
    let guests = guests.collect::<Result<Vec<_>, _>>()?;
    let plans = guests.iter().map(|guest| guest.plan(guest.commands)).collect::<Result<Vec<_>, _>>()?;

    if options.quiet || options.json {
        screen::be_quiet();
    }
    let mut tracing = Tracing::start(options)?;
    stderr::start().map_err(|error| Failure::about("a thread cannot be started", error))?;
    let status = run_guests(guests, &plans, frames, options, tracing.as_mut())?;
    match (status, tracing.map_or(Ok(()), Tracing::finish)) {
        (Status::Signal(_), Err(failure)) => say(&failure.message),
        (_, finished) => finished?,
    }
    Ok(status)
}

fn run_guests(
    guests: Vec<Guest<'_>>,
    plans: &[Plan],
    frames: u64,
    options: &RunArgs,
    mut tracing: Option<&mut Tracing>,
) -> Result<Status, Failure> {
    let hypervisor = hypervisor(frames, options.pcpus)?;
    if let Some(tracing) = &mut tracing {
        tracing.trace(&hypervisor)?;
    }
    let finish = tracing.map(|tracing| tracing.finisher());
    let telling = Telling { statistics: options.statistics, json: options.json };
    let store = StoreHandle::default();
    let grace = Duration::from_secs(options.grace.into());
    let finish = || finish.into_iter().for_each(|finish| finish());
    let console = Console::open(&guests, &hypervisor, &store, grace, finish)?;
    let _socket = sockets::serve(store.clone())
        .inspect_err(|failure| say(&format!("xenstore cannot be looked into: {}", failure.message)));
    let sessions = console.sessions(guests, &hypervisor, &store, telling);
    let born = Instant::now();
    let status = run_together(&sessions, plans, console.typed_to());
    let finished = console.finish();
    if status.is_ok() && sessions.len() > 1 {
        screen::all_ended(sessions.len(), born.elapsed(), Validation::of(&hypervisor));
    }
    match (status, finished) {
        // The first failure may be why there is another; both are told.
        (Err(first), Err(second)) => {
            say(&second.message);
            Err(first)
        }
        (Err(failure), Ok(Some(signal))) => {
            say(&failure.message);
            Ok(signal)
        }
        (status, Ok(None)) => status,
        (Ok(_), Ok(Some(signal))) => Ok(signal),
        (Ok(_), Err(failure)) => Err(failure),
    }
}

fn hypervisor(frames: u64, pcpus: u32) -> Result<Arc<Hypervisor>, Failure> {
    let machine = assemble::machine(frames, pcpus).map_err(Failure::new)?;
    screen::title(&machine.report);
    assemble(machine).map(Arc::new).map_err(Failure::new)
}
