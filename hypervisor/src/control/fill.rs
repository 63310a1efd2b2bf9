//! Filling a new domain: what the builder puts into its memory, and what the host domain serves it with.

use crate::builder::{BuildError, BuiltDomain, Identity, KernelImage, Plan, build};
use crate::domain::Domain;
use crate::event_channel::alloc_unbound;
use crate::services::Services;
use crate::vcpu::StartState;
use pv_abi::{DomId, EventPort, GrantRef};

/// A domain that can start, and be served.
#[derive(Clone, Copy, Debug)]
pub struct FilledDomain {
    /// Where the builder has put what the domain starts with.
    pub built: BuiltDomain,
    /// The port that it offers to its console's back-end.
    pub console_port: EventPort,
    /// The port that it offers to xenstore.
    pub store_port: EventPort,
}

impl FilledDomain {
    /// How its first vCPU starts.
    pub fn start_state(&self) -> StartState {
        let BuiltDomain { root, entry, stack, start_info, .. } = self.built;
        StartState { root, entry, stack, start_info }
    }
}

/// Builds `image` into a new domain, offers the host domain ports for its console and its store, and grants it their
/// pages.
///
/// # Errors
/// Why the domain cannot be built; whoever called ends it.
pub fn fill(
    services: &Services,
    domain: &Domain,
    image: &KernelImage<'_>,
    ramdisk: &[u8],
    plan: &Plan,
) -> Result<FilledDomain, BuildError> {
    let mmu = &services.mmu;
    let [store_port, console_port] =
        [alloc_unbound(domain, DomId::HOST)?, alloc_unbound(domain, DomId::HOST)?];
    let shared_info = domain.shared().frame();
    let identity = Identity { domain: domain.id(), shared_info, console_port, store_port };
    let built = build(mmu, identity, image, ramdisk, plan)?;
    let mut grants = domain.grants().lock();
    grants.grow(mmu, domain.id(), 1)?;
    grants.permit(mmu, GrantRef::CONSOLE, DomId::HOST, built.console)?;
    grants.permit(mmu, GrantRef::XENSTORE, DomId::HOST, built.store)?;
    Ok(FilledDomain { built, console_port, store_port })
}
