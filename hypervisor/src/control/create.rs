//! Making domains, and letting them run.

use crate::domain::{Console, Domain, End, Parts, SharedPage};
use crate::error::{Failure, Refusal};
use crate::machine::{MachineError, NoSuchFrame};
use crate::services::Services;
use crate::time::publish_wall_clock;
use crate::trace::Record;
use crate::vcpu::{StartState, VcpuHandle, VcpuKey};
use pv_abi::shared_info::LEGACY_MAX_VCPUS;
use pv_abi::{DomId, Errno, Mfn, VcpuId};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// vCPUs that a domain can have: those with a `vcpu_info` in the shared page.
pub const MAX_VCPUS: u32 = LEGACY_MAX_VCPUS as u32;

/// What a domain is to be.
#[derive(Debug)]
pub struct DomainConfig {
    /// What the domain is called in messages.
    pub name: String,
    /// Its vCPUs, at least 1 and at most [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Pages that it may have.
    pub maximum_pages: u64,
    /// Its emergency console.
    pub console: Arc<dyn Console>,
}

/// Makes a domain that has a number, a shared page and event channels, but no memory yet and nothing to run.
///
/// # Errors
/// Where the machine has no frame or no number left.
pub fn create(services: &Services, config: DomainConfig) -> Result<Arc<Domain>, Failure> {
    // Frames of a dead domain that others still refer to are found by its number.
    let id = services.domains.next_id(|id| services.mmu.frames_of(id) == 0);
    let id = id.ok_or(Refusal::new(Errno::ENOSPC, "all domain numbers are in use"))?;
    if let Some(recorder) = services.trace.recorder() {
        recorder.record(Record::Domain { id, name: config.name.clone() });
    }
    let frame = services.mmu.allocate_shared(id)?;
    services.mmu.give_doorbell_page(id);
    let made = make(services, id, frame, config).map_err(|source| {
        MachineError::new("the shared page cannot be used", std::io::Error::other(source)).into()
    });
    if let Ok(domain) = &made {
        let (mebibytes, vcpus) = (domain.maximum_pages() / 256, domain.vcpus().len());
        tracing::debug!("{id} ({}) is made: {mebibytes} MiB, {vcpus} vCPUs", domain.name());
    }
    if made.is_err() {
        super::teardown::release_all(&services.mmu, id);
        services.mmu.take_doorbell_page(id);
    }
    made
}

fn make(
    services: &Services,
    id: DomId,
    frame: Mfn,
    config: DomainConfig,
) -> Result<Arc<Domain>, NoSuchFrame> {
    let memory = services.mmu.memory();
    memory.zero(frame)?;
    publish_wall_clock(memory, frame, &*services.clock)?;
    let shared = SharedPage::new(memory.clone(), frame)?;
    let assists = Arc::<AtomicU64>::default();
    let count = config.vcpus.max(1);
    let vcpu = |number| {
        let key = VcpuKey { domain: id, vcpu: VcpuId(number) };
        Ok(VcpuHandle::new(key, count, shared.vcpu_info(key.vcpu)?, assists.clone()))
    };
    let vcpus = (0..count).map(vcpu).collect::<Result<_, NoSuchFrame>>()?;
    let domain = Arc::new(Domain::new(Parts {
        id,
        name: config.name,
        shared,
        vcpus,
        maximum_pages: config.maximum_pages,
        console: config.console,
        wake: services.scheduler.clone(),
    }));
    services.domains.insert(domain.clone());
    Ok(domain)
}

/// Lets a built domain run.
///
/// # Errors
/// Where its root table is none, which ends it, or it has started or ended before.
pub fn start(services: &Services, domain: &Arc<Domain>, state: &StartState) -> Result<(), Failure> {
    if !domain.life().start() {
        return Err(Refusal::new(Errno::EINVAL, "the domain has started already").into());
    }
    if let Some(vcpu) = domain.vcpus().first() {
        let claim = vcpu.claim()?;
        let started = vcpu.state().lock().start(&services.mmu, state);
        if let Err(failure) = started {
            domain.life().end(End::Destroyed);
            services.ended.ring();
            return Err(failure);
        }
        claim.keep();
    }
    services.scheduler.start(domain);
    Ok(())
}
