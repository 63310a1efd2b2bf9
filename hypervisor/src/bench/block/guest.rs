//! The bundled kernel with one disk, told what to do through its console.

use super::access::Load;
use crate::bench::BenchError;
use crate::bench::kernel_domain::{Kernel, KernelDomain};
use crate::kernel_image::KERNEL_IMAGE;
use backends::block::Disk;
use backends::block::image::Image;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// The domain's memory: what `paravane run` gives it.
const PAGES: u64 = 32768;
const DISK: &str = "xvda";
const COMMAND_LINE: &str = "stdin=pipe";
/// How an answer begins, and how a refusal does.
const ANSWER: &str = "measured ";
const REFUSAL: &str = "measure: ";
const PATIENCE: Duration = Duration::from_secs(120);

/// What a sample came to.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// How long the sample took, in nanoseconds of the guest's clock.
    pub nanoseconds: f64,
    /// Notifications, of the guest and of its back-end together.
    pub notifications: u64,
}

/// A guest that runs the bundled kernel and measures its disk when it is told to.
pub struct Guest {
    lines: Receiver<String>,
    domain: KernelDomain,
}

impl Guest {
    /// Starts one whose disk is in `image`.
    pub fn new(image: Arc<dyn Image>) -> Result<Self, BenchError> {
        let (sender, lines) = unbounded();
        let kernel = Kernel { image: KERNEL_IMAGE, ramdisk: &[], command_line: COMMAND_LINE, pages: PAGES };
        let mut domain = KernelDomain::build(&kernel, Lines { sender, line: Vec::new() })?;
        domain.attach(Disk::new(DISK, image, true))?;
        domain.start()?;
        Ok(Self { lines, domain })
    }

    /// The rate of this host's TSC, in kHz.
    pub fn tsc_khz(&self) -> u32 {
        self.domain.report.tsc_khz
    }

    /// Has the guest do a load.
    pub fn run(&self, load: Load, seed: u32) -> Result<Measured, BenchError> {
        let Load { action, chunk, depth, count } = load;
        let command = format!("measure {} {DISK} {} {depth} {count} {seed}\n", action.name(), chunk >> 10);
        let before = self.domain.disk_notifications();
        self.domain.input.push(command.as_bytes());
        let answer = self.answer()?;
        let notified = self.domain.disk_notifications() - before;
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
            let line = self.lines.recv_timeout(PATIENCE).map_err(|_| self.domain.silent())?;
            if let Some(refusal) = line.strip_prefix(REFUSAL) {
                return Err(BenchError::Guest(format!("says: {refusal}")));
            }
            if let Some(answer) = line.strip_prefix(ANSWER) {
                return Ok(answer.into());
            }
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
