//! The bundled kernel with one disk, told what to do through its console.

use super::access::Load;
use crate::assemble::{assemble, machine};
use crate::bench::BenchError;
use crate::bench::guest::end;
use crate::builder::{KernelImage, Plan, Wishes};
use crate::control::{DomainConfig, FilledDomain, Hypervisor, fill};
use crate::domain::{Domain, NoConsole};
use crate::host_domain::{
    DeviceEnd, Home, HostDomain, Service, move_in, start_console, start_disk, start_store,
};
use crate::kernel_image::KERNEL_IMAGE;
use backends::block::Disk;
use backends::block::image::Image;
use backends::console::{self, Input};
use backends::xenstore::{self, Store, StoreHandle};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// The domain's memory: what `paravane run` gives it.
const PAGES: u64 = 32768;
/// The machine's.
const FRAMES: u64 = PAGES + 1024;
const DISK: &str = "xvda";
const COMMAND_LINE: &str = "stdin=pipe";
/// How an answer begins, and how a refusal does.
const ANSWER: &str = "measured ";
const REFUSAL: &str = "measure: ";
const PATIENCE: Duration = Duration::from_secs(120);

/// What a sample came to.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// By the guest's clock.
    pub nanoseconds: f64,
    /// Notifications, of the guest and of its back-end together.
    pub notifications: u64,
}

/// A guest that runs.
pub struct Guest {
    input: Arc<Input>,
    lines: Receiver<String>,
    host: Arc<HostDomain>,
    domain: Arc<Domain>,
    services: Option<Services>,
    hypervisor: Hypervisor,
    /// The rate of this host's TSC.
    pub tsc_khz: u32,
}

/// Threads of the host domain.
struct Services {
    console: Service<console::End>,
    store: Service<xenstore::End>,
    disk: Service<DeviceEnd>,
}

impl Guest {
    /// Starts one whose disk is in `image`.
    pub fn new(image: Arc<dyn Image>) -> Result<Self, BenchError> {
        let machine = machine(FRAMES, 1)?;
        let tsc_khz = machine.report.tsc_khz;
        let hypervisor = assemble(machine)?;
        let config = DomainConfig {
            name: "bench".into(),
            maximum_pages: PAGES,
            vcpus: 1,
            console: Arc::new(NoConsole),
        };
        let domain = hypervisor.create_domain(config)?;
        let host = Arc::new(HostDomain::new(Arc::clone(&hypervisor.services().mmu), Arc::clone(&domain)));
        let (sender, lines) = unbounded();
        let (input, services) = (Arc::new(Input::default()), None);
        // From here on, dropping it ends the domain.
        let mut guest = Self { input, lines, host, domain, services, hypervisor, tsc_khz };
        guest.start(image, Lines { sender, line: Vec::new() })?;
        Ok(guest)
    }

    fn start(&mut self, image: Arc<dyn Image>, lines: Lines) -> Result<(), BenchError> {
        let kernel = KernelImage::parse(KERNEL_IMAGE)?;
        let wishes = Wishes { pages: PAGES, command_line: COMMAND_LINE.into(), ..Wishes::default() };
        let plan = Plan::new(&kernel, &wishes)?;
        let filled = fill(self.hypervisor.services(), &self.domain, &kernel, &[], &plan)?;
        self.services = Some(self.serve(image, lines, &filled)?);
        self.hypervisor.start(&self.domain, &filled.start_state())?;
        Ok(())
    }

    fn serve(
        &self,
        image: Arc<dyn Image>,
        lines: Lines,
        filled: &FilledDomain,
    ) -> Result<Services, BenchError> {
        let (store_port, console_port) = (filled.store_port, filled.console_port);
        let domain = self.domain.id();
        let home = Home { domain, name: "bench", pages: PAGES, vcpus: 1, console_port, store_port };
        let store = StoreHandle::new(Store::default());
        move_in(&store, &home)?;
        let disk = Arc::new(Disk::new(DISK, image, true));
        // The console has a host domain of its own, so that what the disk's notifies is counted by itself.
        let other = HostDomain::new(Arc::clone(&self.hypervisor.services().mmu), Arc::clone(&self.domain));
        let failed = |reason: &backends::Disconnect| tracing::error!(%reason, "the disk is disconnected");
        let other = Arc::new(other);
        Ok(Services {
            disk: start_disk(Arc::clone(&self.host), &store, 0, disk, failed)?,
            store: start_store(Arc::clone(&other), store_port, &store, |_| {})?,
            console: start_console(other, console_port, Arc::clone(&self.input), lines, |_| {})?,
        })
    }

    /// Has the guest do a load.
    pub fn run(&self, load: Load, seed: u32) -> Result<Measured, BenchError> {
        let Load { action, chunk, depth, count } = load;
        let command = format!("measure {} {DISK} {} {depth} {count} {seed}\n", action.name(), chunk >> 10);
        let before = self.host.notifications();
        self.input.push(command.as_bytes());
        let answer = self.answer()?;
        let notified = self.host.notifications() - before;
        let numbers: Option<Vec<u64>> = answer.split(' ').map(|word| word.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[nanoseconds, sent]) => {
                Ok(Measured { nanoseconds: nanoseconds as f64, notifications: sent + notified })
            }
            _ => Err(BenchError::Guest(format!("answers {answer:?}"))),
        }
    }

    fn answer(&self) -> Result<String, BenchError> {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).map_err(|_| self.silent())?;
            if let Some(refusal) = line.strip_prefix(REFUSAL) {
                return Err(BenchError::Guest(format!("says: {refusal}")));
            }
            if let Some(answer) = line.strip_prefix(ANSWER) {
                return Ok(answer.into());
            }
        }
    }

    /// A guest that does not answer may have crashed: then that is what there is to say.
    fn silent(&self) -> BenchError {
        match self.hypervisor.wait_for(&self.domain, Duration::ZERO) {
            Some(end) => BenchError::Guest(format!("has ended: {}", end.end)),
            None => BenchError::Guest("does not answer".into()),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end(&self.hypervisor, &self.domain);
        if let Some(Services { console, store, disk }) = self.services.take() {
            console.finish();
            disk.finish();
            store.finish();
        }
    }
}

/// Cuts a console's output into lines.
struct Lines {
    sender: Sender<String>,
    line: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    // Whoever listens no more needs no line.
                    let _ = self.sender.send(String::from_utf8_lossy(&self.line).trim_end().into());
                    self.line.clear();
                }
                _ => self.line.push(byte),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
