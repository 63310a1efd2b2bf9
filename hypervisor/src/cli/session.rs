//! A guest's life, from its building to its end, and what the user has of it.

use super::command_line::Commands;
use super::desk::Desk;
use super::exit::Exit;
use super::files::reason;
use super::guest::Guest;
use super::output::Output;
use super::screen;
use super::status::Failure;
use super::voice::Voice;
use backends::console::End;
use hypervisor::builder::{Plan, functions};
use hypervisor::control::{DomainConfig, Hypervisor, fill};
use hypervisor::domain::{Console, Domain, DomainEnd};
use hypervisor::host_domain::{ConsoleThread, HostDomain};
use hypervisor::report::Symbol;
use pv_abi::EventPort;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What all lives of a guest have in common: a reboot begins another.
pub struct Session<'a> {
    /// Its place among the guests of this run.
    pub index: usize,
    /// The hypervisor.
    pub hypervisor: Arc<Hypervisor>,
    /// The guest.
    pub guest: Guest<'a>,
    /// Where its words go.
    pub voice: Voice,
    /// Where it is typed to.
    pub desk: Arc<Desk>,
    /// What ends the guests from outside.
    pub exit: Arc<Exit>,
    /// Whether its statistics are told at its end.
    pub statistics: bool,
}

/// One life of a guest: a domain that runs.
pub struct Life {
    /// When it was begun.
    pub born: Instant,
    domain: Arc<Domain>,
    /// None where the user has left before it was there.
    console: Option<ConsoleThread>,
}

impl Session<'_> {
    /// Begins a life: builds a domain, and lets it run.
    pub fn begin(&self, plan: &Plan) -> Result<Life, Failure> {
        let born = Instant::now();
        let output = self.output(born);
        let config = DomainConfig {
            name: self.guest.spec.name.clone(),
            vcpus: self.guest.spec.vcpus,
            maximum_pages: plan.pages,
            console: Arc::new(EmergencyConsole(Mutex::new(output.clone()))),
        };
        let domain = self.hypervisor.create_domain(config).map_err(Failure::new)?;
        self.exit.set_domain(self.index, &domain);
        let console = self.fill_and_start(&domain, plan, output).map(Some).or_else(|failure| {
            self.hypervisor.destroy(&domain);
            self.hypervisor.wait(&domain);
            // A user who leaves meanwhile is no failure.
            if self.exit.has_left() { Ok(None) } else { Err(failure) }
        })?;
        Ok(Life { born, domain, console })
    }

    /// Stays until nothing is left of a life.
    pub fn outlast(&self, life: Life) -> DomainEnd {
        let end = self.hypervisor.wait(&life.domain);
        life.console.map(ConsoleThread::finish);
        end
    }

    fn fill_and_start(
        &self,
        domain: &Arc<Domain>,
        plan: &Plan,
        output: Output,
    ) -> Result<ConsoleThread, Failure> {
        let images = self.guest.images;
        let filled = fill(self.hypervisor.services(), domain, &self.guest.kernel, images.ramdisk(), plan);
        let filled = filled.map_err(|error| Failure::about(images.name(), error))?;
        let functions = functions(images.kernel_bytes()).into_iter();
        let symbol =
            |f: hypervisor::builder::Function| Symbol { address: f.address, size: f.size, name: f.name };
        domain.set_symbols(functions.map(symbol).collect());
        let console = self.serve_console(domain, filled.console_port, output)?;
        self.hypervisor.start(domain, &filled.start_state()).map_err(Failure::new)?;
        Ok(console)
    }

    fn serve_console(
        &self,
        domain: &Arc<Domain>,
        port: EventPort,
        output: Output,
    ) -> Result<ConsoleThread, Failure> {
        let host = HostDomain::new(self.hypervisor.services().mmu.clone(), domain.clone());
        let (exit, voice) = (Arc::clone(&self.exit), self.voice.clone());
        let ended = move |end: &End| match end {
            // Whoever read the output has seen enough.
            End::Sink(error) if error.kind() == io::ErrorKind::BrokenPipe => exit.leave(),
            End::Sink(error) => exit.fail(Failure::about("the guest's output", reason(error))),
            End::Disconnected(reason) => {
                voice.warn(&format!("the guest's console is disconnected: {reason}"));
            }
            End::Stopped => {}
        };
        ConsoleThread::start(host, port, self.desk.input(self.index), output, ended).map_err(Failure::new)
    }

    /// The guest's output; its first words bring the rest of the first screen.
    fn output(&self, born: Instant) -> Output {
        let (mmu, name) = (self.hypervisor.services().mmu.clone(), self.guest.images.name().to_owned());
        let typed = self.guest.commands == Commands::Typed;
        let voice = self.voice.clone();
        Output::new(self.voice.clone(), move || {
            let validated = mmu.counters().entries_validated;
            screen::booted(&voice, &name, born.elapsed(), validated, typed);
        })
    }
}

/// What a guest writes before it has a console.
#[derive(Debug)]
struct EmergencyConsole(Mutex<Output>);

impl Console for EmergencyConsole {
    fn write(&self, bytes: &[u8]) {
        // Where nobody reads, the console's thread will notice.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes);
    }
}
