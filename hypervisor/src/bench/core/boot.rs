//! The row `boot/prompt`: everything that somebody waits for who starts the bundled guest kernel.

use crate::assemble::{assemble, machine};
use crate::bench::sampling::samples;
use crate::bench::{BenchError, Row, Sink};
use crate::builder::{KernelImage, Plan, Wishes};
use crate::control::{DomainConfig, Hypervisor, fill};
use crate::domain::{Domain, NoConsole};
use crate::host_domain::{HostDomain, Service, start_console};
use crate::kernel_image::KERNEL_IMAGE;
use backends::console::{End, Input};
use crossbeam_channel::{Sender, bounded};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The domain's memory: what `paravane run` gives it.
const PAGES: u64 = 32768;
/// The machine's.
const FRAMES: u64 = PAGES + 1024;
/// What the bundled kernel's shell says when it is ready.
const PROMPT: &[u8] = b"paravane> ";
const PATIENCE: Duration = Duration::from_secs(60);
const MILLISECOND: f64 = 1e6;

/// Measures the row.
pub fn run(count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    sink(Row::alone("core/boot/prompt", &samples(count, boot)?).aiming_at(50.0 * MILLISECOND));
    Ok(())
}

fn boot() -> Result<f64, BenchError> {
    let start = Instant::now();
    let hypervisor = assemble(machine(FRAMES, 1)?)?;
    let config =
        DomainConfig { name: "bench".into(), maximum_pages: PAGES, vcpus: 1, console: Arc::new(NoConsole) };
    let domain = hypervisor.create_domain(config)?;
    let (seen, prompt) = bounded(1);
    let console = start_kernel(&hypervisor, &domain, Watch { seen, tail: Vec::new() })?;
    let at = prompt.recv_timeout(PATIENCE);
    hypervisor.destroy(&domain);
    hypervisor.wait(&domain);
    console.finish();
    let at = at.map_err(|_| BenchError::Guest("never came to its prompt".into()))?;
    Ok(at.duration_since(start).as_nanos() as f64)
}

/// What `paravane run` does with a kernel image, without ramdisk and command line.
fn start_kernel(
    hypervisor: &Hypervisor,
    domain: &Arc<Domain>,
    sink: Watch,
) -> Result<Service<End>, BenchError> {
    let image = KernelImage::parse(KERNEL_IMAGE)?;
    let plan = Plan::new(&image, &Wishes { pages: PAGES, ..Wishes::default() })?;
    let filled = fill(hypervisor.services(), domain, &image, &[], &plan)?;
    let mmu = Arc::clone(&hypervisor.services().mmu);
    let host = Arc::new(HostDomain::new(mmu, Arc::clone(domain)));
    let input = Arc::new(Input::default());
    let console = start_console(host, filled.console_port, input, sink, |_| {})?;
    hypervisor.start(domain, &filled.start_state())?;
    Ok(console)
}

/// Takes the kernel's output, and tells when the prompt comes.
struct Watch {
    seen: Sender<Instant>,
    /// The last bytes, as many as may be the start of a prompt.
    tail: Vec<u8>,
}

impl Write for Watch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.extend_from_slice(bytes);
        if self.tail.windows(PROMPT.len()).any(|window| window == PROMPT) {
            // Only the first counts.
            let _ = self.seen.try_send(Instant::now());
        }
        let keep = self.tail.len().saturating_sub(PROMPT.len() - 1);
        self.tail.drain(..keep);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
