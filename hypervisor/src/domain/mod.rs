//! A domain: what it is called, what it has, and how far its life has come.
//!
//! Plain data, shared by every thread. What changes has its own lock or is an atomic; ranks are in
//! [`crate::lock`]. Creating a domain makes no object of the host's.

mod console;
mod crash_report;
pub mod grants;
mod life;
pub mod ports;
mod registry;
mod shared_page;
mod statistics;

pub use console::{Console, NoConsole};
pub use crash_report::{CrashReport, Location, Symbol, SymbolTable};
pub use life::{DomainEnd, End, Life, Stage};
pub use registry::Domains;
pub use shared_page::SharedPage;
pub use statistics::{ExitKind, Statistics, StatisticsSnapshot};

use crate::lock::{Rank, Ranked};
use crate::vcpu::{VcpuHandle, VcpuKey};
use grants::{GrantTable, Maptrack};
use ports::PortTable;
use pv_abi::sched::ShutdownReason;
use pv_abi::{DomId, VcpuId};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Puts vCPUs that sleep back to work: the scheduler, as what lies below it sees it.
pub trait Wake: Send + Sync + std::fmt::Debug {
    /// Something happened that this vCPU may be waiting for, or should look at soon.
    fn wake(&self, vcpu: VcpuKey);
}

/// What a domain is made of.
#[derive(Debug)]
pub struct Parts {
    /// The domid, by which hypercalls and xenstore name the domain.
    pub id: DomId,
    /// What the domain is called in messages.
    pub name: String,
    /// The page that the domain shares with the hypervisor (`shared_info`).
    pub shared: SharedPage,
    /// Its vCPUs, number 0 first.
    pub vcpus: Vec<VcpuHandle>,
    /// Pages that it may have.
    pub maximum_pages: u64,
    /// Its emergency console.
    pub console: Arc<dyn Console>,
    /// Who wakes the domain's vCPUs: the scheduler.
    pub wake: Arc<dyn Wake>,
}

/// A domain: all that is known of it, but for its frames and its page tables.
#[derive(Debug)]
pub struct Domain {
    parts: Parts,
    ports: Ranked<PortTable>,
    grants: Ranked<GrantTable>,
    maptrack: Ranked<Maptrack>,
    life: Life,
    statistics: Statistics,
    exit_status: AtomicU8,
    /// A [`ShutdownReason`], or [`NO_CODE`].
    shutdown_code: AtomicU32,
    symbols: OnceLock<SymbolTable>,
}

const NO_CODE: u32 = u32::MAX;

impl Domain {
    /// A domain that has not started.
    pub fn new(parts: Parts) -> Self {
        let ports = Ranked::ordered(Rank::Ports, u32::from(parts.id.0), PortTable::default());
        Self {
            parts,
            ports,
            grants: Ranked::new(Rank::Grants, GrantTable::default()),
            maptrack: Ranked::new(Rank::Maptrack, Maptrack::default()),
            life: Life::default(),
            statistics: Statistics::default(),
            exit_status: AtomicU8::new(0),
            shutdown_code: AtomicU32::new(NO_CODE),
            symbols: OnceLock::new(),
        }
    }

    /// The domid, by which hypercalls and xenstore name the domain.
    pub fn id(&self) -> DomId {
        self.parts.id
    }

    /// What the domain is called in messages.
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// The page that the domain shares with the hypervisor (`shared_info`).
    pub fn shared(&self) -> &SharedPage {
        &self.parts.shared
    }

    /// The domain's event channels.
    pub fn ports(&self) -> &Ranked<PortTable> {
        &self.ports
    }

    /// What the domain lends to others.
    pub fn grants(&self) -> &Ranked<GrantTable> {
        &self.grants
    }

    /// What it has mapped of other domains.
    pub fn maptrack(&self) -> &Ranked<Maptrack> {
        &self.maptrack
    }

    /// All vCPUs of the domain, number 0 first, whether started or not.
    pub fn vcpus(&self) -> &[VcpuHandle] {
        &self.parts.vcpus
    }

    /// The vCPU of that number; none where the domain has none such.
    pub fn vcpu(&self, id: VcpuId) -> Option<&VcpuHandle> {
        self.parts.vcpus.get(usize::try_from(id.0).ok()?)
    }

    /// Wakes one of its vCPUs.
    pub fn wake(&self, vcpu: VcpuId) {
        self.parts.wake.wake(VcpuKey { domain: self.id(), vcpu });
    }

    /// Wakes those of its vCPUs that poll, so that they look again.
    pub fn wake_pollers(&self) {
        for vcpu in self.vcpus().iter().filter(|vcpu| vcpu.polls()) {
            self.wake(vcpu.key().vcpu);
        }
    }

    /// Wakes those of its vCPUs that wait for room in its emergency console. To be called once there is room.
    pub fn room_again(&self) {
        for vcpu in self.vcpus().iter().filter(|vcpu| vcpu.awaits_room()) {
            self.wake(vcpu.key().vcpu);
        }
    }

    /// How far its life has come.
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// What the domain does, counted.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Its emergency console.
    pub fn console(&self) -> &dyn Console {
        &*self.parts.console
    }

    /// Pages that it may have.
    pub fn maximum_pages(&self) -> u64 {
        self.parts.maximum_pages
    }

    /// Frames that it has besides: its shared page and its grant table, which are its own for life.
    pub fn shared_frames(&self) -> u64 {
        let grant_frames = self.grants.lock().frames().len() as u64;
        grant_frames.saturating_add(1)
    }

    /// What it reports to whoever started it.
    pub fn exit_status(&self) -> u8 {
        self.exit_status.load(Ordering::Relaxed)
    }

    /// Sets what the domain reports to whoever started it.
    pub fn set_exit_status(&self, status: u8) {
        self.exit_status.store(status, Ordering::Relaxed);
    }

    /// Sets the reason that a later shutdown gives, whatever it says itself.
    pub fn set_shutdown_code(&self, reason: ShutdownReason) {
        self.shutdown_code.store(reason.0, Ordering::Relaxed);
    }

    /// The reason of a shutdown that gives `reason`.
    pub fn shutdown_reason(&self, reason: ShutdownReason) -> ShutdownReason {
        match self.shutdown_code.load(Ordering::Relaxed) {
            NO_CODE => reason,
            code => ShutdownReason(code),
        }
    }

    /// Its kernel's symbols, for crash reports.
    pub fn symbols(&self) -> Option<&SymbolTable> {
        self.symbols.get()
    }

    /// Sets the kernel's symbols. The first setting counts.
    pub fn set_symbols(&self, symbols: SymbolTable) {
        let _ = self.symbols.set(symbols);
    }
}
