//! A domain as `paravane run` makes it: a kernel, its console, its store, and perhaps a disk.

use super::BenchError;
use super::guest::end;
use crate::assemble::{assemble, machine};
use crate::builder::{KernelImage, Plan, Wishes};
use crate::control::{DomainConfig, FilledDomain, Hypervisor, fill};
use crate::domain::{Domain, NoConsole, StatisticsSnapshot};
use crate::host_domain::{
    DeviceEnd, HostDomain, Service, StoreNodes, create_store_nodes, start_console, start_disk, start_store,
};
use crate::machine::kvm::ProbeReport;
use backends::block::Disk;
use backends::console::{self, Input};
use backends::xenstore::{self, Store, StoreHandle};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// What is booted, in how much memory.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// The unpacked image.
    pub image: &'a [u8],
    /// Its ramdisk; empty where it has none.
    pub ramdisk: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// The domain's memory. The machine has a little more.
    pub pages: u64,
}

/// A domain with one vCPU on a machine of its own. It ends when this is dropped.
pub struct KernelDomain {
    /// What is typed on its console.
    pub input: Arc<Input>,
    /// What its disk uses, and nothing else does.
    pub disk_host: Arc<HostDomain>,
    /// What the machine's probes found.
    pub report: ProbeReport,
    filled: FilledDomain,
    domain: Arc<Domain>,
    store: StoreHandle,
    services: Services,
    hypervisor: Hypervisor,
}

/// Threads of the host domain.
#[derive(Default)]
struct Services {
    console: Option<Service<console::End>>,
    store: Option<Service<xenstore::End>>,
    disk: Option<Service<DeviceEnd>>,
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
        let host = || {
            let mmu = Arc::clone(&hypervisor.services().mmu);
            Arc::new(HostDomain::new(mmu, Arc::clone(&domain)))
        };
        let (disk_host, other) = (host(), host());
        let store = StoreHandle::new(Store::default());
        let (input, services) = (Arc::default(), Services::default());
        // From here on, dropping it ends the domain.
        let mut made = Self { input, disk_host, report, filled, domain, store, services, hypervisor };
        made.serve(&other, pages, output)?;
        Ok(made)
    }

    fn serve(
        &mut self,
        host: &Arc<HostDomain>,
        pages: u64,
        output: impl Write + Send + 'static,
    ) -> Result<(), BenchError> {
        let (store_port, console_port) = (self.filled.store_port, self.filled.console_port);
        let domain = self.domain.id();
        create_store_nodes(
            &self.store,
            &StoreNodes { domain, name: "bench", pages, vcpus: 1, console_port, store_port },
        )?;
        self.services.store = Some(start_store(Arc::clone(host), store_port, &self.store, |_| {})?);
        let input = Arc::clone(&self.input);
        self.services.console = Some(start_console(Arc::clone(host), console_port, input, output, |_| {})?);
        Ok(())
    }

    /// Gives it a disk; before it starts.
    pub fn attach(&mut self, disk: Disk) -> Result<(), BenchError> {
        let failed = |reason: &backends::Disconnect| tracing::error!(%reason, "the disk is disconnected");
        let host = Arc::clone(&self.disk_host);
        self.services.disk = Some(start_disk(host, &self.store, 0, Arc::new(disk), failed)?);
        Ok(())
    }

    /// Starts it.
    pub fn start(&self) -> Result<(), BenchError> {
        Ok(self.hypervisor.start(&self.domain, &self.filled.start_state())?)
    }

    /// What it did until now, counted.
    pub fn statistics(&self) -> StatisticsSnapshot {
        self.domain.statistics().snapshot()
    }

    /// Whether it has ended.
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
        let Services { console, store, disk } = std::mem::take(&mut self.services);
        if let Some(console) = console {
            console.finish();
        }
        if let Some(disk) = disk {
            disk.finish();
        }
        if let Some(store) = store {
            store.finish();
        }
    }
}
