//! `paravane run`.

use super::args::RunCommand;
use super::command_line::Commands;
use super::desk::Desk;
use super::exit::Exit;
use super::fit::machine_frames;
use super::guest::Guest;
use super::image::Images;
use super::keyboard::{self, Hearer, Stdin};
use super::life::stay;
use super::screen::{self, Validation};
use super::session::Session;
use super::status::{Failure, Status};
use super::terminal::{self, Raw};
use super::trace::Tracing;
use super::voice::{Voice, voices};
use hypervisor::assemble::{self, assemble};
use hypervisor::builder::Plan;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

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

    let tracing = Tracing::start(options.trace.as_deref())?;
    let machine = assemble::machine(frames, options.pcpus).map_err(Failure::new)?;
    screen::title(&machine.report);
    let hypervisor = Arc::new(assemble(machine).map_err(Failure::new)?);
    if let Some(tracing) = &tracing {
        tracing.trace(&hypervisor);
    }

    let names: Vec<_> = specs.iter().map(|spec| spec.name.clone()).collect();
    let voices = voices(&names);
    let desk = Arc::new(Desk::new(guests.iter().map(|guest| !matches!(guest.commands, Commands::Given(_)))));
    let stdin = stdin(&guests);
    if names.len() > 1 {
        let typed_to = names.get(desk.current()).filter(|_| stdin == Stdin::Terminal);
        screen::company(&names, typed_to.map(String::as_str));
    }
    let of_terminal = |error: io::Error| Failure::about("the terminal", error);
    let finish = tracing.as_ref().map(Tracing::finisher);
    terminal::end_on_signals(|| finish.into_iter().for_each(|finish| finish())).map_err(of_terminal)?;
    let _raw = (stdin == Stdin::Terminal).then(Raw::enter).transpose().map_err(of_terminal)?;
    let exit = Arc::new(Exit::new(&hypervisor));
    let user = User { voices: voices.clone(), exit: Arc::clone(&exit) };
    keyboard::start(stdin, Arc::clone(&desk), user).map_err(of_terminal)?;
    let session = |(index, (guest, voice))| Session {
        index,
        hypervisor: Arc::clone(&hypervisor),
        guest,
        voice,
        desk: Arc::clone(&desk),
        exit: Arc::clone(&exit),
    };
    let sessions: Vec<_> = guests.into_iter().zip(voices.clone()).enumerate().map(session).collect();
    let born = Instant::now();
    let status = live_together(&sessions, plans, if stdin == Stdin::Terminal { &voices } else { &[] });
    if sessions.len() > 1 {
        screen::all_ended(sessions.len(), born.elapsed(), Validation::of(&hypervisor));
    }
    status
}

fn stdin(guests: &[Guest<'_>]) -> Stdin {
    let has = |commands| guests.iter().any(|guest| guest.commands == commands);
    match () {
        () if has(Commands::Typed) => Stdin::Terminal,
        () if has(Commands::Piped) => Stdin::Pipe,
        () => Stdin::Unread,
    }
}

/// Whoever sits at the keyboard.
struct User {
    voices: Vec<Voice>,
    exit: Arc<Exit>,
}

impl Hearer for User {
    fn turned_to(&self, index: usize) {
        if let Some(voice) = self.voices.get(index) {
            voice.attend();
        }
    }

    fn leave(&self) {
        self.exit.leave();
    }
}

/// Lives all guests' lives, each on a thread of its own; the status is the worst of theirs.
/// `typed_to` are the voices of domains that somebody at a terminal can turn to.
fn live_together(sessions: &[Session<'_>], plans: Vec<Plan>, typed_to: &[Voice]) -> Result<Status, Failure> {
    if let [session] = sessions {
        return plans.into_iter().next().map_or(Ok(Status::Fine), |plan| stay(session, plan));
    }
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (session, plan) in sessions.iter().zip(plans) {
            let name = format!("{} session", session.guest.spec.name);
            let thread = thread::Builder::new().name(name);
            let thread = thread.spawn_scoped(scope, move || live_in_company(session, plan, typed_to));
            // Those that have started need not wait for ever for one that cannot.
            threads.push(thread.inspect_err(|_| session.exit.leave()));
        }
        let threads = threads.into_iter().collect::<io::Result<Vec<_>>>();
        let threads = threads.map_err(|error| Failure::about("a thread cannot be started", error))?;
        // A panic has ended the process.
        let statuses = threads.into_iter().filter_map(|thread| thread.join().ok());
        Ok(statuses.max_by_key(|status| status.severity()).unwrap_or(Status::Fine))
    })
}

/// Lives a guest's lives, and leaves the keyboard to another at their end.
fn live_in_company(session: &Session<'_>, plan: Plan, typed_to: &[Voice]) -> Status {
    let status = stay(session, plan).unwrap_or_else(|failure| {
        session.voice.warn(&failure.message);
        failure.status
    });
    let next = session.desk.gone(session.index);
    if let Some(voice) = next.and_then(|next| typed_to.get(next)) {
        voice.attend();
    }
    status
}
