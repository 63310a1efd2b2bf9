//! Driving the bench's guest.
//!
//! It speaks through the emergency console: it *reads* its next command, which keeps its pcpu's thread waiting until
//! there is one, and *writes* the result. So while the host measures a floor, nothing of the guest runs, and while
//! the guest measures itself, the host waits.

use super::BenchError;
use super::image::{COMMAND_SIZE, Program, RESULT_SIZE};
use super::site::{LEAST_PAGES, MACHINE_FRAMES, Site, pages_around};
use crate::assemble::{assemble, machine};
use crate::control::Hypervisor;
use crate::domain::{Console, Domain, DomainEnd};
use crate::machine::kvm::ProbeReport;
use crossbeam_channel::{Receiver, Sender, unbounded};
use pv_abi::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer than anything takes that a guest is told to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the guest says on its line.
#[derive(Debug)]
enum Said {
    /// It asks for a command, since this moment.
    Asks(Instant),
    /// The two words of a result: see [`super::image`].
    Result([u64; 2]),
}

/// The guest's end of the line.
#[derive(Debug)]
struct Ear {
    commands: Receiver<[u8; COMMAND_SIZE]>,
    said: Sender<Said>,
}

impl Console for Ear {
    fn write(&self, bytes: &[u8]) -> usize {
        let word = |at: usize| {
            bytes.get(at..at + 8).and_then(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
        };
        debug_assert_eq!(bytes.len(), RESULT_SIZE);
        if let (Some(first), Some(second)) = (word(0), word(8)) {
            // Whoever does not listen any more needs no answer.
            let _ = self.said.send(Said::Result([first, second]));
        }
        bytes.len()
    }

    /// Nothing, and so the guest's end, once nobody can send a command any more.
    fn read(&self, into: &mut [u8]) -> usize {
        let _ = self.said.send(Said::Asks(Instant::now()));
        match self.commands.recv() {
            Ok(command) => {
                into.iter_mut().zip(command).for_each(|(to, from)| *to = from);
                COMMAND_SIZE.min(into.len())
            }
            Err(_) => 0,
        }
    }
}

/// The host's end of the line.
#[derive(Debug)]
pub struct Line {
    commands: Sender<[u8; COMMAND_SIZE]>,
    said: Receiver<Said>,
}

impl Line {
    /// A line, and the console to give to the guest.
    pub fn new() -> (Self, Arc<dyn Console>) {
        let (commands, heard) = unbounded();
        let (saying, said) = unbounded();
        (Self { commands, said }, Arc::new(Ear { commands: heard, said: saying }))
    }

    fn listen(&self) -> Result<Said, BenchError> {
        self.said.recv_timeout(PATIENCE).map_err(|_| BenchError::Guest("does not answer".into()))
    }

    /// Waits until the guest asks for a command; when it did.
    pub fn ready(&self) -> Result<Instant, BenchError> {
        loop {
            if let Said::Asks(since) = self.listen()? {
                return Ok(since);
            }
        }
    }

    /// Has the guest do something; it must be [`Self::ready`].
    fn call(&self, command: [u64; COMMAND_SIZE / 8]) -> Result<[u64; 2], BenchError> {
        let mut bytes = [0; COMMAND_SIZE];
        bytes.chunks_exact_mut(8).zip(command).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        let gone = |_| BenchError::Guest("is gone".into());
        self.commands.send(bytes).map_err(gone)?;
        loop {
            if let Said::Result(words) = self.listen()? {
                return Ok(words);
            }
        }
    }
}

/// A machine with one pcpu, and the bench's guest on it.
#[derive(Debug)]
pub struct Laboratory {
    line: Line,
    /// The domain that the guest runs in.
    pub site: Site,
    /// What the machine's probes found.
    pub report: ProbeReport,
    /// The hypervisor. It goes last: its end waits for the guest's, and that for the line's.
    pub hypervisor: Hypervisor,
}

impl Laboratory {
    /// Makes a machine, and starts a guest with a window and a second root on it.
    pub fn new() -> Result<Self, BenchError> {
        Self::with(MACHINE_FRAMES, Site::new)
    }

    /// Starts one that has a ramdisk, and no more.
    pub fn with_ramdisk(ramdisk: &[u8]) -> Result<Self, BenchError> {
        let frames = pages_around(ramdisk) + LEAST_PAGES;
        Self::with(frames, |hypervisor, console| Site::with_ramdisk(hypervisor, ramdisk, console))
    }

    fn with(
        frames: u64,
        build: impl FnOnce(&Hypervisor, Arc<dyn Console>) -> Result<Site, BenchError>,
    ) -> Result<Self, BenchError> {
        let machine = machine(frames, 1)?;
        let report = machine.report.clone();
        let hypervisor = assemble(machine)?;
        let (line, console) = Line::new();
        let site = build(&hypervisor, console)?;
        hypervisor.start(&site.domain, &site.start)?;
        line.ready()?;
        Ok(Self { line, site, report, hypervisor })
    }

    /// Has the guest run a program, `count` times and with further words; both times in nanoseconds.
    pub fn run(&self, program: Program, count: u64, words: &[u64]) -> Result<[f64; 2], BenchError> {
        Ok(self.call(program, count, words)?.map(|ticks| self.nanoseconds(ticks)))
    }

    /// The same; both words as the program returns them.
    pub fn call(&self, program: Program, count: u64, words: &[u64]) -> Result<[u64; 2], BenchError> {
        let mut command = [0; COMMAND_SIZE / 8];
        let given = [program.address(), count].into_iter().chain(words.iter().copied());
        command.iter_mut().zip(given).for_each(|(to, word)| *to = word);
        let answer = self.line.call(command).and_then(|words| {
            self.line.ready()?;
            Ok(words)
        });
        let words = answer.map_err(|error| self.explain(error))?;
        match Errno::from_return(words[0]) {
            Ok(_) => Ok(words),
            Err(errno) => Err(BenchError::Guest(format!("was refused {program:?}: {errno}"))),
        }
    }

    /// Ticks of the guest's TSC in nanoseconds.
    pub fn nanoseconds(&self, ticks: u64) -> f64 {
        nanoseconds(ticks, self.report.tsc_khz)
    }

    /// A guest that does not answer may have crashed: then that is what there is to say.
    fn explain(&self, error: BenchError) -> BenchError {
        match self.hypervisor.wait_for(&self.site.domain, Duration::from_secs(1)) {
            Some(end) => BenchError::Guest(describe(&end)),
            None => error,
        }
    }
}

fn describe(end: &DomainEnd) -> String {
    let report = end.report().map(|report| format!("\n{report}")).unwrap_or_default();
    format!("has ended: {}{report}", end.end)
}

/// Ticks of a TSC of so many kHz in nanoseconds.
pub fn nanoseconds(ticks: u64, tsc_khz: u32) -> f64 {
    ticks as f64 * 1e6 / f64::from(tsc_khz.max(1))
}

/// Ends a domain and waits until nothing is left of it. Its line must be gone, or it may wait for a command for
/// ever.
pub fn end(hypervisor: &Hypervisor, domain: &Domain) {
    hypervisor.destroy(domain);
    hypervisor.wait(domain);
}
