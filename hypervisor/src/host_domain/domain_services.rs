//! What one domain is served with: its nodes in xenstore, its console, its way to the store, its disks.

use super::{HostDomain, Service, ServiceEnd, StoreNodes, create_store_nodes};
use super::{start_console, start_disk, start_store};
use crate::control::FilledDomain;
use crate::domain::Domain;
use crate::paging::Mmu;
use backends::Disconnect;
use backends::block::Disk;
use backends::console::Input;
use backends::host::HostError;
use backends::xenstore::StoreHandle;
use pv_abi::DomId;
use std::io::Write;
use std::sync::Arc;

/// Threads of the host domain, and the domain's nodes in xenstore. All of it is gone when this is dropped, once what the
/// domain has left behind is served. In that order: what stands last here is needed by what stands before it.
pub struct DomainServices {
    console: Service,
    disks: Vec<Service>,
    xenstore: Service,
    disk_host: Arc<HostDomain>,
    nodes: OwnNodes,
}

/// A domain's place in xenstore: it is gone when this is dropped.
struct OwnNodes {
    store: StoreHandle,
    domain: DomId,
}

impl Drop for OwnNodes {
    fn drop(&mut self) {
        self.store.release(self.domain);
        // Somebody may have removed it by hand.
        let _ = self.store.remove(&format!("/local/domain/{}", self.domain.0));
        let _ = self.store.remove(&format!("/local/domain/0/backend/vbd/{}", self.domain.0));
    }
}

impl DomainServices {
    /// Serves a domain that has not started, which is `filled`: with nodes in `store` and a way to them, and a console
    /// that takes from `input` and writes to `output`. `warn` is told of what cannot be served any more.
    ///
    /// # Errors
    /// Where the store or the host refuses.
    pub fn start(
        mmu: &Arc<Mmu>,
        domain: &Arc<Domain>,
        filled: &FilledDomain,
        store: &StoreHandle,
        (input, output): (Arc<Input>, impl Write + Send + 'static),
        warn: impl Fn(&str) + Clone + Send + 'static,
    ) -> Result<Self, Disconnect> {
        let [host, disk_host] =
            [(); 2].map(|()| Arc::new(HostDomain::new(Arc::clone(mmu), Arc::clone(domain))));
        let FilledDomain { console_port, store_port, .. } = *filled;
        let nodes = StoreNodes {
            domain: domain.id(),
            name: domain.name(),
            pages: domain.maximum_pages(),
            vcpus: u32::try_from(domain.vcpus().len()).unwrap_or(u32::MAX),
            console_port,
            store_port,
        };
        create_store_nodes(store, &nodes).map_err(|error| HostError::new(error.to_string()))?;
        let nodes = OwnNodes { store: store.clone(), domain: domain.id() };
        let ended = |what: &'static str| {
            let warn = warn.clone();
            move |end: &ServiceEnd| {
                if let Err(reason @ (Disconnect::Protocol(_) | Disconnect::Host(_))) = end {
                    warn(&format!("the guest's {what} is disconnected: {reason}"));
                }
            }
        };
        let xenstore = start_store(&host, store_port, store, ended("xenstore"))?;
        let console = start_console(&host, console_port, input, output, ended("console"))?;
        Ok(Self { console, disks: Vec::new(), xenstore, disk_host, nodes })
    }

    /// Gives the domain one more disk, before it starts. `failed` is told whenever its front-end could not be served.
    ///
    /// # Errors
    /// Where the store or the host refuses, or there are 256 already.
    pub fn attach_disk(
        &mut self,
        disk: Arc<Disk>,
        failed: impl Fn(&Disconnect) + Send + 'static,
    ) -> Result<(), Disconnect> {
        let index = u8::try_from(self.disks.len()).map_err(|_| HostError::new("there are 256 disks"))?;
        let host = Arc::clone(&self.disk_host);
        self.disks.push(start_disk(host, &self.nodes.store, index, disk, failed)?);
        Ok(())
    }

    /// What serves its disks, and nothing else.
    pub fn disk_host(&self) -> &Arc<HostDomain> {
        &self.disk_host
    }

    fn all(&self) -> impl Iterator<Item = &Service> {
        self.disks.iter().chain([&self.console, &self.xenstore])
    }

    /// Finishes what the domain has asked for, and touches nothing of it until [`Self::resume`]. To be called when none
    /// of its vCPUs runs any more.
    pub fn pause(&self) {
        for service in self.all() {
            let _ = service.pause(); // one that has ended touches nothing either
        }
    }

    /// Goes on after [`Self::pause`].
    pub fn resume(&self) {
        self.all().for_each(Service::resume);
    }
}
