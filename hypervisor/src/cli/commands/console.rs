//! What the user has of all guests together: a screen, a keyboard, and a way out.

use crate::cli::guests::command_line::Commands;
use crate::cli::guests::guest::Guest;
use crate::cli::input::input_focus::{InputFocus, Takes};
use crate::cli::input::keyboard::{self, Hearer, Stdin};
use crate::cli::input::terminal::Raw;
use crate::cli::printing::domain_output::{DomainOutput, domain_outputs};
use crate::cli::printing::screen::{self, Telling};
use crate::cli::say;
use crate::cli::status::{Failure, Status};
use crate::cli::toolstack::exit::Exit;
use crate::cli::toolstack::session::Session;
use crate::cli::toolstack::signals;
use backends::xenstore::StoreHandle;
use hypervisor::control::Hypervisor;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// See the head of this file. The terminal is raw while this lives, if somebody types.
pub struct Console {
    domain_outputs: Vec<DomainOutput>,
    focus: Arc<InputFocus>,
    exit: Arc<Exit>,
    stdin: Stdin,
    _raw: Option<Raw>,
}

impl Console {
    /// Opens it for these guests. A signal gives them `grace` to shut down; `finish` is done where one ends the process as
    /// it is.
    pub fn open(
        guests: &[Guest<'_>],
        hypervisor: &Arc<Hypervisor>,
        store: &StoreHandle,
        grace: Duration,
        finish: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Failure> {
        let names: Vec<_> = guests.iter().map(|guest| guest.spec.name.clone()).collect();
        let focus = Arc::new(InputFocus::new(guests.iter().map(takes)));
        let stdin = stdin(guests);
        if names.len() > 1 {
            let typed_to = names.get(focus.current()).filter(|_| stdin == Stdin::Terminal);
            screen::several(&names, typed_to.map(String::as_str));
        }
        let of_terminal = |error: io::Error| Failure::about("the terminal", error);
        let (domain_outputs, exit) =
            outputs(&names, Exit::new(hypervisor, store.clone())).map_err(of_terminal)?;
        let of_signals = |error: io::Error| Failure::about("signals", error);
        signals::start(Arc::clone(&exit), grace, finish).map_err(of_signals)?;
        let raw = (stdin == Stdin::Terminal).then(Raw::enter).transpose().map_err(of_terminal)?;
        let user = User { domain_outputs: domain_outputs.clone(), exit: Arc::clone(&exit) };
        keyboard::start(stdin, Arc::clone(&focus), user).map_err(of_terminal)?;
        Ok(Self { domain_outputs, focus, exit, stdin, _raw: raw })
    }

    /// A session with each of the guests; `telling` says what is told at its end.
    pub fn sessions<'a>(
        &self,
        guests: Vec<Guest<'a>>,
        hypervisor: &Arc<Hypervisor>,
        store: &StoreHandle,
        telling: Telling,
    ) -> Vec<Session<'a>> {
        let session = |(index, (guest, domain_output)): (usize, (Guest<'a>, &DomainOutput))| Session {
            index,
            hypervisor: Arc::clone(hypervisor),
            guest,
            store: store.clone(),
            domain_output: domain_output.clone(),
            focus: Arc::clone(&self.focus),
            exit: Arc::clone(&self.exit),
            telling,
        };
        guests.into_iter().zip(&self.domain_outputs).enumerate().map(session).collect()
    }

    /// Waits until all that was said is written, or nobody wants to read it. The status, where a signal has ended the run.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(&self) -> Result<Option<Status>, Failure> {
        match self.exit.finish_output() {
            0 => {}
            lost => say(&format!("{lost} bytes of output were not read in time, and are lost")),
        }
        if let Some(failure) = self.exit.take_failure() {
            return Err(failure);
        }
        let Some(signal) = self.exit.signal() else { return Ok(None) };
        say(&format!("ended by {}: {}", signals::name(signal), self.exit.ends()));
        Ok(Some(Status::Signal(signal)))
    }

    /// Outputs of those domains that somebody at a terminal can turn to.
    pub fn typed_to(&self) -> &[DomainOutput] {
        match self.stdin {
            Stdin::Terminal => &self.domain_outputs,
            Stdin::Pipe | Stdin::Unread => &[],
        }
    }
}

/// The output of each domain, and a way out: that output is taken no more is one.
fn outputs(names: &[String], exit: Exit) -> io::Result<(Vec<DomainOutput>, Arc<Exit>)> {
    let exit = Arc::new(exit);
    let leaving = Arc::clone(&exit);
    let (domain_outputs, printer) = domain_outputs(names, move |error| leaving.output_failed(error))?;
    exit.set_printer(printer);
    Ok((domain_outputs, exit))
}

fn takes(guest: &Guest<'_>) -> Takes {
    match guest.commands {
        Commands::Given(_) => Takes::Nothing,
        _ if guest.spec.is_bundled() => Takes::KeysAndEnd,
        _ => Takes::Keys,
    }
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
    domain_outputs: Vec<DomainOutput>,
    exit: Arc<Exit>,
}

impl Hearer for User {
    fn turned_to(&self, index: usize) {
        if let Some(domain_output) = self.domain_outputs.get(index) {
            domain_output.attend();
        }
    }

    fn leave(&self) {
        self.exit.leave();
    }
}
