//! A guest's life, from its building to its end, and what the user has of it.

use super::exit::Exit;
use super::served::serve;
use crate::cli::guests::command_line::Commands;
use crate::cli::guests::demo_disk;
use crate::cli::guests::guest::Guest;
use crate::cli::input::input_focus::InputFocus;
use crate::cli::printing::domain_output::DomainOutput;
use crate::cli::printing::output::Output;
use crate::cli::printing::screen::{self, Telling, Validation};
use crate::cli::printing::stderr;
use crate::cli::status::Failure;
use backends::xenstore::StoreHandle;
use hypervisor::builder::{Plan, functions};
use hypervisor::control::{DomainConfig, Hypervisor, fill};
use hypervisor::domain::Symbol;
use hypervisor::domain::{Domain, DomainEnd};
use hypervisor::host_domain::DomainServices;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the guest's first words wait for somebody to read the first screen.
const FIRST_SCREEN: Duration = Duration::from_millis(500);

/// What all domains of a guest have in common: a reboot begins another.
pub struct Session<'a> {
    /// Its place among the guests of this run.
    pub index: usize,
    /// The hypervisor, which all guests of this run share.
    pub hypervisor: Arc<Hypervisor>,
    /// The guest that is booted: its files, its disks, and what its user wants.
    pub guest: Guest<'a>,
    /// The store of the machine.
    pub store: StoreHandle,
    /// Where what the domain says is shown.
    pub domain_output: DomainOutput,
    /// The input of each domain, and which of them the keys go to.
    pub focus: Arc<InputFocus>,
    /// What ends the guests from outside.
    pub exit: Arc<Exit>,
    /// What is told at its end.
    pub telling: Telling,
}

/// A domain of a guest that runs.
pub struct RunningDomain {
    /// When the domain was about to be created.
    pub born: Instant,
    /// What validation came to before that.
    pub validation_before: Validation,
    domain: Arc<Domain>,
    /// None where the user has left before it was there.
    services: Option<DomainServices>,
}

impl Session<'_> {
    /// Builds a domain, and lets it run.
    pub fn begin(&self, plan: &Plan) -> Result<RunningDomain, Failure> {
        let born = Instant::now();
        let validation_before = Validation::of(&self.hypervisor);
        let output = Output(self.domain_output.clone());
        let config = DomainConfig {
            name: self.guest.spec.name.clone(),
            vcpus: self.guest.spec.vcpus,
            maximum_pages: plan.pages,
            console: Arc::new(output.clone()),
        };
        let domain = self.hypervisor.create_domain(config).map_err(Failure::new)?;
        self.begin_to_speak(born, &domain);
        self.exit.set_domain(self.index, &domain);
        let services = self.fill_and_start(&domain, plan, output).map(Some).or_else(|failure| {
            self.hypervisor.destroy(&domain);
            self.hypervisor.wait(&domain);
            // A user who leaves meanwhile is no failure.
            if self.exit.is_over() { Ok(None) } else { Err(failure) }
        })?;
        Ok(RunningDomain { born, validation_before, domain, services })
    }

    /// Waits until nothing is left of a domain.
    pub fn wait_for_end(&self, running: RunningDomain) -> DomainEnd {
        let end = self.hypervisor.wait(&running.domain);
        drop(running.services); // once the domain's last words are written
        end
    }

    fn fill_and_start(
        &self,
        domain: &Arc<Domain>,
        plan: &Plan,
        output: Output,
    ) -> Result<DomainServices, Failure> {
        let images = self.guest.images;
        let filled = fill(self.hypervisor.services(), domain, &self.guest.kernel, images.ramdisk(), plan);
        let filled = filled.map_err(|error| Failure::about(images.name(), error))?;
        let functions = functions(images.kernel_bytes()).into_iter();
        let symbol =
            |f: hypervisor::builder::Function| Symbol { address: f.address, size: f.size, name: f.name };
        domain.set_symbols(functions.map(symbol).collect());
        let services = serve(self, domain, &filled, output)?;
        self.hypervisor.start(domain, &filled.start_state()).map_err(Failure::new)?;
        Ok(services)
    }

    /// The guest's first words bring the rest of the first screen; that there is room for more lets its vCPUs go on.
    fn begin_to_speak(&self, born: Instant, domain: &Arc<Domain>) {
        let name = self.guest.images.name().to_owned();
        let typed = self.guest.commands == Commands::Typed;
        let help = match self.guest.spec.is_bundled() {
            _ if !typed => "",
            true => "help, selftest; Ctrl-] leaves\n",
            false => "Ctrl-] leaves\n",
        };
        let has_demo_disk = self.guest.disks.iter().any(|disk| disk.name() == demo_disk::NAME);
        let (domain_output, domain) = (self.domain_output.clone(), Arc::downgrade(domain));
        let first = move || {
            screen::booted(&domain_output, &name, born.elapsed(), help);
            if typed && has_demo_disk {
                screen::demo_disk();
            }
            stderr::settle(FIRST_SCREEN);
        };
        let room = move || domain.upgrade().into_iter().for_each(|domain| domain.room_again());
        self.domain_output.begin(Box::new(first), Box::new(room));
    }
}
