//! Taking domains apart that have ended, in bounded steps.

use crate::contain::contained;
use crate::domain::Domain;
use crate::event_channel::close_all;
use crate::grant::unmap_all;
use crate::paging::{Budget, Mmu, Progress};
use crate::services::Services;
use pv_abi::DomId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Steps of a teardown before others may use the processor.
const STEPS: u32 = 8192;

/// Takes domains apart until told to stop.
pub(super) fn reap(services: &Services, stopping: &AtomicBool) {
    while !stopping.load(Ordering::SeqCst) {
        reap_once(services);
        services.ended.listen();
    }
}

/// Takes apart what has ended and is on no pcpu any more.
pub(crate) fn reap_once(services: &Services) {
    for domain in services.domains.all().iter().filter(|domain| domain.life().has_ended()) {
        services.scheduler.evict(domain.id());
        if !services.scheduler.knows(domain.id()) {
            if let Err(defect) = contained(|| take_apart(services, domain)) {
                tracing::error!(target: crate::defect::TARGET, domain = %domain.id(), %defect, "frames of a dead domain are lost");
            }
            services.domains.remove(domain.id());
            domain.life().set_dead();
            tracing::debug!("{} is gone; {} MiB are free", domain.id(), services.mmu.free_frames() / 256);
        }
    }
}

/// Returns everything that a domain without running vCPUs holds.
fn take_apart(services: &Services, domain: &Domain) {
    services.timers.forget(domain.id());
    close_all(&services.domains, domain);
    domain.grants().lock().close();
    for vcpu in domain.vcpus() {
        vcpu.state().lock().release(&services.mmu);
        vcpu.release_info(&services.mmu);
    }
    if release_all(&services.mmu, domain.id()) {
        // Its page tables are gone, so nothing of what it had mapped can be reached any more.
        services.mmu.take_doorbell_page(domain.id());
        unmap_all(&services.mmu, domain);
    }
}

/// Returns all frames of a domain; false where the machine failed, and they are lost.
pub(super) fn release_all(mmu: &Mmu, id: DomId) -> bool {
    loop {
        match mmu.release_domain(id, &mut Budget::new(STEPS)) {
            Ok(Progress::Preempted) => thread::yield_now(),
            Ok(Progress::Done) => return true,
            Err(failure) => {
                tracing::error!(target: crate::defect::TARGET, domain = %id, %failure, "frames of a dead domain are lost");
                return false;
            }
        }
    }
}
