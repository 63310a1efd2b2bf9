//! The hypervisor as those who start domains see it: threads, and a domain's life from creation to the return of
//! its last frame.
//!
//! Threads: one a pcpu ([`crate::run_loop`]), one that wakes for alarms ([`Services::heed_alarm`]), one that
//! takes apart what has ended. All of them end when [`Hypervisor::shutdown`] is called, or on drop.

mod create;
mod fill;
pub(crate) mod teardown;

#[cfg(test)]
mod tests;

pub use create::{DomainConfig, MAX_VCPUS, create, start};
pub use fill::{FilledDomain, fill};

use crate::clock::Clock;
use crate::domain::{Domain, DomainEnd, End, StatisticsSnapshot};
use crate::error::{Failure, Refusal};
use crate::machine::cpuid::MachineCpuid;
use crate::machine::{Doorbells, Kick, MachineError, Pcpu};
use crate::paging::Mmu;
use crate::run_loop::PcpuLoop;
use crate::services::Services;
use crate::vcpu::StartState;
use pv_abi::Errno;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A pcpu and what wakes it from guest mode.
pub type PcpuParts = (Box<dyn Pcpu>, Arc<dyn Kick>);

/// A machine with its layers, and the threads that run them.
#[derive(Debug)]
pub struct Hypervisor {
    services: Arc<Services>,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Hypervisor {
    /// Takes a machine over and starts its pcpus.
    ///
    /// # Errors
    /// Where the host gives no threads.
    pub fn new(
        mmu: Arc<Mmu>,
        doorbells: Arc<dyn Doorbells>,
        pcpus: Vec<PcpuParts>,
        clock: Arc<dyn Clock>,
        cpuid: Arc<MachineCpuid>,
        raises_nm: bool,
    ) -> Result<Self, MachineError> {
        let (pcpus, kicks): (Vec<_>, Vec<_>) = pcpus.into_iter().unzip();
        let services = Arc::new(Services::new(mmu, doorbells, kicks, clock, cpuid, raises_nm));
        let this = Self { services, stopping: Arc::default(), threads: Mutex::default() };
        for (index, pcpu) in pcpus.into_iter().enumerate() {
            let pcpu = PcpuLoop::new(index, pcpu, this.services.clone());
            this.spawn(format!("pcpu {index}"), move || pcpu.run())?;
        }
        let services = this.services.clone();
        this.spawn("alarm".into(), move || while services.heed_alarm() {})?;
        let (services, stopping) = (this.services.clone(), this.stopping.clone());
        this.spawn("reaper".into(), move || teardown::reap(&services, &stopping))?;
        Ok(this)
    }

    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), MachineError> {
        let failed = |source| MachineError::new("a thread cannot be started", source);
        let thread = thread::Builder::new().name(name).spawn(body).map_err(failed)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// What handlers and back-ends work with.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Makes a domain that has a number, a shared page and event channels, but no memory yet and nothing to run: the
    /// builder fills it, and [`Self::start`] lets it run.
    ///
    /// # Errors
    /// Where the machine has no frame or no number left.
    pub fn create_domain(&self, config: DomainConfig) -> Result<Arc<Domain>, Failure> {
        create(&self.services, config)
    }

    /// Lets a built domain run.
    ///
    /// # Errors
    /// Where its root table is none, which ends it, or it has started or ended before.
    pub fn start(&self, domain: &Arc<Domain>, state: &StartState) -> Result<(), Failure> {
        start(&self.services, domain, state)
    }

    /// Waits until a domain has ended and all its frames are returned.
    pub fn wait(&self, domain: &Domain) -> DomainEnd {
        loop {
            if let Some(end) = self.wait_for(domain, Duration::from_secs(3600)) {
                return end;
            }
        }
    }

    /// As [`Self::wait`], but not for longer than `limit`.
    pub fn wait_for(&self, domain: &Domain, limit: Duration) -> Option<DomainEnd> {
        let end = domain.life().wait_dead(Some(limit))?;
        Some(DomainEnd { end, status: domain.exit_status(), statistics: self.statistics(domain) })
    }

    /// What a domain did so far, with what the paging code counted for all.
    pub fn statistics(&self, domain: &Domain) -> StatisticsSnapshot {
        let counters = self.services.mmu.counters();
        StatisticsSnapshot {
            validated: counters.entries_validated.saturating_add(counters.entries_updated),
            refused: counters.refusals,
            ..domain.statistics().snapshot()
        }
    }

    /// Takes a domain's vCPUs off their pcpus, and waits until none is on one and all that they are is in their contexts.
    /// Events and timers that come meanwhile are there when it goes on. What serves it goes on as well: see
    /// [`crate::host_domain::DomainServices::pause`]. Pauses are not counted: one [`Self::unpause`] ends them all. To be
    /// called once [`Self::start`] has returned: until then vCPU 0 has no registers yet.
    ///
    /// # Errors
    /// Where it has not started, has ended, or is unpaused by somebody else before.
    pub fn pause(&self, domain: &Domain) -> Result<(), Refusal> {
        if !domain.life().pause() {
            return Err(Refusal::new(Errno::EINVAL, "the domain does not run"));
        }
        match self.services.scheduler.pause(domain) {
            true => Ok(()),
            false => Err(Refusal::new(Errno::EINVAL, "the domain was unpaused, or has ended, meanwhile")),
        }
    }

    /// Lets a paused domain's vCPUs run again; one that runs goes on.
    ///
    /// # Errors
    /// Where it has not started, or has ended.
    pub fn unpause(&self, domain: &Domain) -> Result<(), Refusal> {
        if !domain.life().unpause() {
            return Err(Refusal::new(Errno::EINVAL, "the domain does not run"));
        }
        self.services.scheduler.unpause(domain);
        Ok(())
    }

    /// Ends a domain, whatever it does. It is gone some time later: see [`Self::wait`].
    pub fn destroy(&self, domain: &Domain) {
        domain.life().end(End::Destroyed);
        self.services.scheduler.evict(domain.id());
        self.services.ended.ring();
    }

    /// Ends all domains, then all threads. Waits for both.
    pub fn shutdown(&self) {
        let domains = self.services.domains.all();
        domains.iter().for_each(|domain| self.destroy(domain));
        for domain in domains {
            self.wait(&domain);
        }
        self.stopping.store(true, Ordering::SeqCst);
        self.services.ended.ring();
        self.services.scheduler.stop();
        self.services.alarm.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(target: crate::defect::TARGET, "a thread of the hypervisor panicked");
            }
        }
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        self.shutdown();
    }
}
