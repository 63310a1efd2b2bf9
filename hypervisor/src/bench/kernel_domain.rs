//! A domain as `paravane run` makes it: a kernel, its console, its store, and perhaps a disk.

use super::BenchError;
use super::guest::end;
use crate::assemble::{assemble, machine};
use crate::builder::{KernelImage, Plan, Wishes};
use crate::control::{DomainConfig, FilledDomain, Hypervisor, fill};
use crate::domain::{Domain, NoConsole, StatisticsSnapshot};
use crate::host_domain::DomainServices;
use crate::machine::kvm::ProbeReport;
use backends::block::Disk;
use backends::console::Input;
use backends::xenstore::{Store, StoreHandle};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// What is booted, in how much memory.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// The bytes of the kernel image, unpacked.
    pub image: &'a [u8],
    /// Its ramdisk; empty where it has none.
    pub ramdisk: &'a [u8],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The domain's memory. The machine has a little more.
    pub pages: u64,
}

/// A domain with one vCPU on a machine of its own. It ends when this is dropped.
pub struct KernelDomain {
    /// What is typed on its console.
    pub input: Arc<Input>,
    /// What the machine's probes found.
    pub report: ProbeReport,
    filled: FilledDomain,
    domain: Arc<Domain>,
    services: DomainServices,
    hypervisor: Hypervisor,
}

impl KernelDomain {
    /// Builds it; what its console shows goes to `output`.
    pub fn build(kernel: &Kernel<'_>, output: impl Write + Send + 'static) -> Result<Self, BenchError> {
        let Kernel { image, ramdisk, command_line, pages } = *kernel;
        let machine = machine(pages + 1024, 1)?;
        let report = machine.report.clone();
        let hypervisor = assemble(machine)?;
        let config = DomainConfig {
            name: "bench".into(),
            maximum_pages: pages,
            vcpus: 1,
            console: Arc::new(NoConsole),
        };
        let domain = hypervisor.create_domain(config)?;
        let image = KernelImage::parse(image)?;
        let bytes = Some(ramdisk.len() as u64).filter(|&bytes| bytes != 0);
        let plan = Plan::new(&image, &Wishes { pages, ramdisk: bytes, command_line: command_line.into() })?;
        let filled = fill(hypervisor.services(), &domain, &image, ramdisk, &plan)?;
        let input = Arc::<Input>::default();
        let (mmu, store) = (&hypervisor.services().mmu, StoreHandle::new(Store::default()));
        let (console, warn) = ((Arc::clone(&input), output), |what: &str| tracing::error!("{what}"));
        let services = DomainServices::start(mmu, &domain, &filled, &store, console, warn)?;
        Ok(Self { input, report, filled, domain, services, hypervisor })
    }

    /// Gives it a disk; before it starts.
    pub fn attach(&mut self, disk: Disk) -> Result<(), BenchError> {
        let failed = |reason: &backends::Disconnect| tracing::error!(%reason, "the disk is disconnected");
        Ok(self.services.attach_disk(Arc::new(disk), failed)?)
    }

    /// How often its disk's back-end has notified it.
    pub fn disk_notifications(&self) -> u64 {
        self.services.disk_host().notifications()
    }

    /// Starts the domain's vCPU at the kernel's entry point.
    pub fn start(&self) -> Result<(), BenchError> {
        Ok(self.hypervisor.start(&self.domain, &self.filled.start_state())?)
    }

    /// What it did until now, counted.
    pub fn statistics(&self) -> StatisticsSnapshot {
        self.domain.statistics().snapshot()
    }

    /// Whether the domain has ended, in whatever way.
    pub fn has_ended(&self) -> bool {
        self.domain.life().has_ended()
    }

    /// Why it does not answer: it may have ended, and then that is what there is to say.
    pub fn silent(&self) -> BenchError {
        match self.hypervisor.wait_for(&self.domain, Duration::ZERO) {
            Some(end) => BenchError::Guest(format!("has ended: {}", end.end)),
            None => BenchError::Guest("does not answer".into()),
        }
    }
}

impl Drop for KernelDomain {
    fn drop(&mut self) {
        end(&self.hypervisor, &self.domain);
    }
}
