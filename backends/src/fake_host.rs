//! A host domain without a hypervisor, and front-ends that do what a test tells them to.

use crate::bell::Bell;
use crate::host::{Access, Host, HostError, Page};
use pv_abi::{DomId, EventPort, GrantRef, PAGE_SIZE};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

/// A page that both ends hold. Clones are the same page.
///
/// A front-end that changes an index under the back-end's eyes is scripted with [`FakePage::script`].
#[derive(Clone)]
pub struct FakePage {
    shared: Arc<Shared>,
    access: Access,
    /// Counts, where a back-end has this.
    _mapping: Option<Arc<()>>,
}

struct Shared {
    memory: MmapRegion,
    script: Mutex<Script>,
    /// How often a back-end said that it has written.
    written: AtomicU32,
    /// How often a back-end has copied from it.
    read: AtomicU32,
    /// Held by each that is mapped.
    mappings: Arc<()>,
}

#[derive(Default)]
struct Script {
    /// What the next loads of an index find, instead of what the page holds.
    values: HashMap<usize, VecDeque<u32>>,
    /// How often an index was loaded.
    loads: HashMap<usize, usize>,
    /// The front-end is dead: nothing works any more.
    gone: bool,
}

impl FakePage {
    fn new() -> Result<Self, MmapRegionError> {
        let (memory, script) = (MmapRegion::new(PAGE_SIZE)?, Mutex::default());
        let (written, read) = (AtomicU32::new(0), AtomicU32::new(0));
        let shared = Shared { memory, script, written, read, mappings: Arc::default() };
        Ok(Self { shared: Arc::new(shared), access: Access::ReadWrite, _mapping: None })
    }

    fn script_state(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, each load of the index at `offset` finds the next of `values`, and then what the page holds.
    pub fn script(&self, offset: usize, values: impl IntoIterator<Item = u32>) {
        self.script_state().values.insert(offset, values.into_iter().collect());
    }

    /// How often the back-end has loaded the index at `offset`.
    pub fn loads(&self, offset: usize) -> usize {
        self.script_state().loads.get(&offset).copied().unwrap_or(0)
    }

    /// Takes the page away: from now on every access fails.
    pub fn take_away(&self) {
        self.script_state().gone = true;
    }

    /// How often a back-end said that it has written it without a copy.
    pub fn times_written(&self) -> u32 {
        self.shared.written.load(Ordering::SeqCst)
    }

    /// How often a back-end has copied bytes from it.
    pub fn times_read(&self) -> u32 {
        self.shared.read.load(Ordering::SeqCst)
    }

    /// How often back-ends have it mapped now.
    pub fn times_mapped(&self) -> usize {
        Arc::strong_count(&self.shared.mappings) - 1
    }

    /// What the page holds, as its front-end sees it: neither scripted nor counted.
    pub fn bytes(&self) -> [u8; PAGE_SIZE] {
        let mut bytes = [0; PAGE_SIZE];
        self.shared.memory.as_volatile_slice().copy_to(&mut bytes);
        bytes
    }

    /// Reads an index as its front-end sees it.
    pub fn peek(&self, offset: usize) -> u32 {
        let bytes = self.bytes();
        u32::from_le_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
    }

    fn range(&self, offset: usize, length: usize, access: Access) -> Result<VolatileSlice<'_>, HostError> {
        if self.script_state().gone {
            return Err(HostError::new("the page is gone"));
        }
        if access == Access::ReadWrite && self.access == Access::ReadOnly {
            return Err(HostError::new("the page is mapped for reading only"));
        }
        let range = self.shared.memory.get_slice(offset, length);
        range.map_err(|_| HostError::new("the access leaves the page"))
    }
}

impl Page for FakePage {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), HostError> {
        self.shared.read.fetch_add(1, Ordering::SeqCst);
        self.range(offset, into.len(), Access::ReadOnly)?.copy_to(into);
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), HostError> {
        self.range(offset, from.len(), Access::ReadWrite)?.copy_from(from);
        Ok(())
    }

    fn load_u32(&self, offset: usize) -> Result<u32, HostError> {
        let range = self.range(offset, 4, Access::ReadOnly)?;
        let mut script = self.script_state();
        *script.loads.entry(offset).or_default() += 1;
        match script.values.get_mut(&offset).and_then(VecDeque::pop_front) {
            Some(value) => Ok(value),
            None => range.load(0, Ordering::SeqCst).map_err(|error| HostError::new(error.to_string())),
        }
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), HostError> {
        let range = self.range(offset, 4, Access::ReadWrite)?;
        range.store(value, 0, Ordering::SeqCst).map_err(|error| HostError::new(error.to_string()))
    }

    fn slice(&self, access: Access) -> Result<VolatileSlice<'_>, HostError> {
        self.range(0, PAGE_SIZE, access)
    }

    fn written(&self) {
        self.shared.written.fetch_add(1, Ordering::SeqCst);
    }
}

/// A host domain that has the pages and ports which a test gave it.
#[derive(Default)]
pub struct FakeHost(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    pages: HashMap<(DomId, GrantRef), FakePage>,
    offers: HashMap<(DomId, EventPort), Option<Arc<Bell>>>,
    ports: Vec<Port>,
}

/// An own end of a channel.
struct Port {
    remote: (DomId, EventPort),
    notifications: usize,
    open: bool,
}

impl FakeHost {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page that `domain` grants, for reading and writing.
    pub fn grant(&self, domain: DomId, reference: GrantRef) -> FakePage {
        let new = || FakePage::new().expect("the test's host has memory for a page");
        self.tables().pages.entry((domain, reference)).or_insert_with(new).clone()
    }

    /// From now on, `domain` grants that page for reading only.
    pub fn restrict(&self, domain: DomId, reference: GrantRef) {
        if let Some(page) = self.tables().pages.get_mut(&(domain, reference)) {
            page.access = Access::ReadOnly;
        }
    }

    /// `domain` grants that page no longer. Whoever has mapped it keeps it.
    pub fn revoke(&self, domain: DomId, reference: GrantRef) {
        self.tables().pages.remove(&(domain, reference));
    }

    /// A port that `domain` offers.
    pub fn offer(&self, domain: DomId, port: EventPort) {
        self.tables().offers.insert((domain, port), None);
    }

    /// The front-end notifies the back-end.
    pub fn notify_backend(&self, domain: DomId, port: EventPort) {
        let bell = self.tables().offers.get(&(domain, port)).cloned().flatten();
        bell.iter().for_each(|bell| bell.ring());
    }

    /// How often the back-end notified that end.
    pub fn notifications(&self, domain: DomId, port: EventPort) -> usize {
        let tables = self.tables();
        tables.ports.iter().filter(|own| own.remote == (domain, port)).map(|own| own.notifications).sum()
    }

    /// How many own ports are open.
    pub fn open_ports(&self) -> usize {
        self.tables().ports.iter().filter(|own| own.open).count()
    }
}

impl Tables {
    fn port(&mut self, port: EventPort) -> Option<&mut Port> {
        let own = (port.0 as usize).checked_sub(1).and_then(|index| self.ports.get_mut(index));
        own.filter(|own| own.open)
    }
}

impl Host for FakeHost {
    type Page = FakePage;

    fn map_grant(&self, domain: DomId, reference: GrantRef, access: Access) -> Result<FakePage, HostError> {
        let page = self.tables().pages.get(&(domain, reference)).cloned();
        let page = page.ok_or_else(|| HostError::new(format!("{domain} grants nothing by {reference:?}")))?;
        if access == Access::ReadWrite && page.access == Access::ReadOnly {
            return Err(HostError::new(format!("{domain} grants {reference:?} for reading only")));
        }
        Ok(FakePage { access, _mapping: Some(Arc::clone(&page.shared.mappings)), ..page })
    }

    fn bind_port(&self, domain: DomId, remote: EventPort, bell: Arc<Bell>) -> Result<EventPort, HostError> {
        let mut tables = self.tables();
        let offer = tables.offers.get_mut(&(domain, remote)).filter(|bound| bound.is_none());
        *offer.ok_or_else(|| HostError::new(format!("{domain} offers no {remote:?}")))? = Some(bell);
        tables.ports.push(Port { remote: (domain, remote), notifications: 0, open: true });
        Ok(EventPort(tables.ports.len() as u32))
    }

    fn notify(&self, port: EventPort) -> Result<(), HostError> {
        let mut tables = self.tables();
        let own = tables.port(port);
        own.ok_or_else(|| HostError::new(format!("{port:?} is not bound")))?.notifications += 1;
        Ok(())
    }

    fn close_port(&self, port: EventPort) {
        let mut tables = self.tables();
        let Some(own) = tables.port(port) else { return };
        own.open = false;
        let remote = own.remote;
        // As with a real channel, the other end can be bound again.
        tables.offers.insert(remote, None);
    }
}
