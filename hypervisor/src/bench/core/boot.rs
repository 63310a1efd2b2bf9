//! Rows about what somebody waits for who starts a kernel: `boot/prompt`, `boot/linux`.

use super::calls::bare;
use crate::bench::first_process;
use crate::bench::floor::{FAULT, Floor, Way};
use crate::bench::kernel_domain::{Kernel, KernelDomain};
use crate::bench::sampling::{pairs, samples};
use crate::bench::{BenchError, Row, Settings, Sink};
use crate::domain::{ExitKind, StatisticsSnapshot};
use crate::kernel_image::KERNEL_IMAGE;
use crate::machine::kvm::{Gate, ProbeReport};
use crossbeam_channel::{Sender, bounded};
use std::cell::RefCell;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// The bundled kernel with what `paravane run` gives it.
const BUNDLED: Kernel<'static> = Kernel { image: KERNEL_IMAGE, ramdisk: &[], command_line: "", pages: 32768 };
/// What its shell says when it is ready.
const PROMPT: &[u8] = b"paravane> ";
/// Memory of Linux: 256 MiB.
const LINUX_PAGES: u64 = 65536;
/// How long a kernel may take, on emulated hardware, too.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_secs(1);
const MILLISECOND: f64 = 1e6;
/// A boot of Linux takes seconds: as many pairs of another row make one of it, and there are at least two.
const PAIRS_PER_LINUX: usize = 4;
const LINUX: &str = "core/boot/linux";

/// Measures the rows `core/boot/...` and hands them to `sink`.
pub fn run(settings: &Settings<'_>, report: &ProbeReport, sink: Sink<'_>) -> Result<(), BenchError> {
    let prompt = samples(settings.pairs, || Ok(boot(&BUNDLED, PROMPT)?.nanoseconds))?;
    sink(Row::alone("core/boot/prompt", &prompt).aiming_at(50.0 * MILLISECOND));
    sink(match settings.linux {
        Some(image) => linux(image, report, (settings.pairs / PAIRS_PER_LINUX).max(2))?,
        None => Row::skipped(LINUX, "no kernel was given (--linux VMLINUZ)"),
    });
    Ok(())
}

/// Linux until its first process speaks, against the exits that it took, each as long as one of its kind on a bare VM.
fn linux(image: &[u8], report: &ProbeReport, count: usize) -> Result<Row, BenchError> {
    let ramdisk = first_process::ramdisk();
    let kernel = Kernel { image, ramdisk: &ramdisk, command_line: "console=hvc0", pages: LINUX_PAGES };
    let mut kinds = Vec::new();
    for (kind, way) in [
        (ExitKind::Syscall, Way::Gate(Gate::Syscall)),
        (ExitKind::Doorbell, Way::Gate(Gate::Doorbell)),
        (ExitKind::Exception, Way::Exception(FAULT)),
    ] {
        kinds.push((kind, Floor::new(report, way, 0)?));
    }
    // Of the boot before: none takes quite as many as another.
    let counts = RefCell::new(StatisticsSnapshot::default());
    let ours = || {
        let booted = boot(&kernel, first_process::MESSAGE.as_bytes())?;
        *counts.borrow_mut() = booted.statistics;
        Ok(booted.nanoseconds)
    };
    let exits_alone = || {
        let mut spent = 0.0;
        for (kind, floor) in &mut kinds {
            spent += bare(floor)? * counts.borrow().exits_of(*kind) as f64;
        }
        Ok(spent)
    };
    let row = Row::paired(LINUX, &pairs(count, ours, exits_alone)?);
    let exits: u64 = counts.borrow().exits.iter().map(|(_, count)| count).sum();
    Ok(row.aiming_at(1.3).noting(format!("{exits} exits")))
}

/// How long a boot took, and what the domain did in it.
struct Booted {
    /// From nothing to what was waited for.
    nanoseconds: f64,
    statistics: StatisticsSnapshot,
}

/// Everything from nothing, until the console shows `awaited`.
fn boot(kernel: &Kernel<'_>, awaited: &'static [u8]) -> Result<Booted, BenchError> {
    let (seen, awaited_at) = bounded(1);
    let start = Instant::now();
    let domain = KernelDomain::build(kernel, Watch { awaited, seen, tail: Vec::new() })?;
    domain.start()?;
    let at = loop {
        match awaited_at.recv_timeout(LOOK) {
            Ok(at) => break at,
            Err(_) if domain.has_ended() || start.elapsed() > PATIENCE => return Err(domain.silent()),
            Err(_) => {}
        }
    };
    let nanoseconds = at.duration_since(start).as_nanos() as f64;
    Ok(Booted { nanoseconds, statistics: domain.statistics() })
}

/// Takes the kernel's output, and tells when what is awaited comes.
struct Watch {
    awaited: &'static [u8],
    seen: Sender<Instant>,
    /// The last bytes, as many as may be the start of it.
    tail: Vec<u8>,
}

impl Write for Watch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.extend_from_slice(bytes);
        if self.tail.windows(self.awaited.len()).any(|window| window == self.awaited) {
            // Only the first counts.
            let _ = self.seen.try_send(Instant::now());
        }
        let keep = self.tail.len().saturating_sub(self.awaited.len() - 1);
        self.tail.drain(..keep);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
