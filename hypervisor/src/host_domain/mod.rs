//! The host domain: back-ends as threads of this process, and what they may reach of a guest.
//!
//! A page of a guest is mapped by holding what the guest grants: while a back-end has it, the guest can make no page
//! table of it, and it stays the guest's after the guest's end.

mod console;
mod device;
mod domain_services;
mod service;
mod store;
mod store_nodes;

pub use console::start_console;
pub use device::start_disk;
pub use domain_services::DomainServices;
pub use service::{Service, ServiceEnd};
pub use store::start_store;
pub use store_nodes::{StoreNodes, create_store_nodes};

use crate::domain::Domain;
use crate::event_channel::{HostChannel, connect};
use crate::grant::HostGrant;
use crate::lock::{Rank, Ranked};
use crate::machine::{MachineMemory, NoSuchFrame};
use crate::paging::Mmu;
use backends::bell::Bell;
use backends::host::{Access, Host, HostError, Page};
use pv_abi::{DomId, EventPort, GrantRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::VolatileSlice;

/// What the host domain has of one guest.
#[derive(Debug)]
pub struct HostDomain {
    mmu: Arc<Mmu>,
    guest: Arc<Domain>,
    /// The own ends of channels.
    channels: Ranked<BTreeMap<EventPort, HostChannel>>,
    notifications: AtomicU64,
}

impl HostDomain {
    /// What there is of `guest`.
    pub fn new(mmu: Arc<Mmu>, guest: Arc<Domain>) -> Self {
        Self {
            mmu,
            guest,
            channels: Ranked::new(Rank::HostChannels, BTreeMap::new()),
            notifications: AtomicU64::new(0),
        }
    }

    /// How often back-ends have notified the guest.
    pub fn notifications(&self) -> u64 {
        self.notifications.load(Ordering::Relaxed)
    }

    fn check_guest(&self, domain: DomId) -> Result<(), HostError> {
        match domain == self.guest.id() {
            true => Ok(()),
            false => Err(HostError::new(format!("{domain} is not served here"))),
        }
    }
}

impl Host for HostDomain {
    type Page = HostPage;

    fn map_grant(&self, domain: DomId, reference: GrantRef, access: Access) -> Result<HostPage, HostError> {
        self.check_guest(domain)?;
        let (mmu, guest) = (Arc::clone(&self.mmu), Arc::clone(&self.guest));
        HostGrant::new(mmu, guest, reference, access)
            .map(HostPage)
            .map_err(|status| HostError::new(format!("{domain} grants no page by {reference:?}: {status}")))
    }

    fn bind_port(&self, domain: DomId, remote: EventPort, bell: Arc<Bell>) -> Result<EventPort, HostError> {
        self.check_guest(domain)?;
        let channel = connect(&self.guest, remote, bell)
            .map_err(|refusal| HostError::new(format!("{domain}'s {remote:?}: {refusal}")))?;
        let mut channels = self.channels.lock();
        let free = (1..).map(EventPort).find(|port| !channels.contains_key(port));
        let port = free.ok_or_else(|| HostError::new("all ports are bound"))?;
        channels.insert(port, channel);
        Ok(port)
    }

    fn notify(&self, port: EventPort) -> Result<(), HostError> {
        let channels = self.channels.lock();
        let channel = channels.get(&port).ok_or_else(|| HostError::new(format!("{port:?} is not bound")))?;
        self.notifications.fetch_add(1, Ordering::Relaxed);
        // A guest that has closed its end is not told anything any more: its own affair.
        let _ = channel.notify();
        Ok(())
    }

    fn close_port(&self, port: EventPort) {
        let closed = self.channels.lock().remove(&port);
        drop(closed); // outside the lock
    }
}

/// A guest's page that a back-end has mapped.
#[derive(Debug)]
pub struct HostPage(HostGrant);

impl HostPage {
    fn memory(&self) -> &MachineMemory {
        self.0.mmu().memory()
    }

    fn check_writable(&self) -> Result<(), HostError> {
        match self.0.access().is_writable() {
            true => Ok(()),
            false => Err(HostError::new("the page is mapped for reading only")),
        }
    }
}

fn outside(error: NoSuchFrame) -> HostError {
    HostError::new(error.to_string())
}

impl Page for HostPage {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), HostError> {
        self.memory().read(self.0.mfn(), offset, into).map_err(outside)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), HostError> {
        self.check_writable()?;
        self.memory().write(self.0.mfn(), offset, from).map_err(outside)
    }

    fn load_u32(&self, offset: usize) -> Result<u32, HostError> {
        self.memory().load_u32(self.0.mfn(), offset).map_err(outside)
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), HostError> {
        self.check_writable()?;
        self.memory().store_u32(self.0.mfn(), offset, value).map_err(outside)
    }

    fn slice(&self, access: Access) -> Result<VolatileSlice<'_>, HostError> {
        if access == Access::ReadWrite {
            self.check_writable()?;
        }
        self.memory().frame(self.0.mfn()).map_err(outside)
    }

    fn written(&self) {
        self.memory().written(self.0.mfn());
    }
}

#[cfg(test)]
mod tests;
