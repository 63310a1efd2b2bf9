//! A host domain without a hypervisor, and front-ends that do what a test tells them to.

use crate::bell::Bell;
use crate::host::{Host, HostError, Page};
use pv_abi::{DomId, EventPort, GrantRef, PAGE_SIZE};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A page that both ends hold. Clones are the same page.
///
/// A front-end that changes an index under the back-end's eyes is scripted with [`FakePage::script`].
#[derive(Clone, Default)]
pub struct FakePage(Arc<Mutex<State>>);

struct State {
    bytes: [u8; PAGE_SIZE],
    /// What the next loads of an index find, instead of what the page holds.
    script: HashMap<usize, VecDeque<u32>>,
    /// How often an index was loaded.
    loads: HashMap<usize, usize>,
    /// The front-end is dead: nothing works any more.
    gone: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { bytes: [0; PAGE_SIZE], script: HashMap::new(), loads: HashMap::new(), gone: false }
    }
}

impl FakePage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, each load of the index at `offset` finds the next of `values`, and then what the page holds.
    pub fn script(&self, offset: usize, values: impl IntoIterator<Item = u32>) {
        self.state().script.insert(offset, values.into_iter().collect());
    }

    /// How often the back-end has loaded the index at `offset`.
    pub fn loads(&self, offset: usize) -> usize {
        self.state().loads.get(&offset).copied().unwrap_or(0)
    }

    /// Takes the page away.
    pub fn take_away(&self) {
        self.state().gone = true;
    }

    /// What the page holds, as its front-end sees it: neither scripted nor counted.
    pub fn bytes(&self) -> [u8; PAGE_SIZE] {
        self.state().bytes
    }

    /// Reads an index as its front-end sees it.
    pub fn peek(&self, offset: usize) -> u32 {
        let bytes = self.bytes();
        u32::from_le_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
    }

    fn access<R>(
        &self,
        offset: usize,
        length: usize,
        action: impl FnOnce(&mut State) -> R,
    ) -> Result<R, HostError> {
        let mut state = self.state();
        if state.gone {
            return Err(HostError::new("the page is gone"));
        }
        match offset.checked_add(length) {
            Some(end) if end <= PAGE_SIZE => Ok(action(&mut state)),
            _ => Err(HostError::new("the access leaves the page")),
        }
    }
}

impl Page for FakePage {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), HostError> {
        let length = into.len();
        self.access(offset, length, |state| into.copy_from_slice(&state.bytes[offset..offset + length]))
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), HostError> {
        self.access(offset, from.len(), |state| {
            state.bytes[offset..offset + from.len()].copy_from_slice(from)
        })
    }

    fn load_u32(&self, offset: usize) -> Result<u32, HostError> {
        let scripted = self.access(offset, 4, |state| {
            *state.loads.entry(offset).or_default() += 1;
            state.script.get_mut(&offset).and_then(VecDeque::pop_front)
        })?;
        Ok(scripted.unwrap_or_else(|| self.peek(offset)))
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), HostError> {
        self.write(offset, &value.to_le_bytes())
    }
}

/// A host domain that has the pages and ports which a test gave it.
#[derive(Default)]
pub struct FakeHost(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    pages: HashMap<(DomId, GrantRef), FakePage>,
    offers: HashMap<(DomId, EventPort), Option<Arc<Bell>>>,
    /// One an own port: the other end, and how often that was notified.
    ports: Vec<((DomId, EventPort), usize)>,
}

impl FakeHost {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page that `domain` grants.
    pub fn grant(&self, domain: DomId, reference: GrantRef) -> FakePage {
        self.tables().pages.entry((domain, reference)).or_default().clone()
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
        self.tables().ports.iter().filter(|(end, _)| *end == (domain, port)).map(|(_, count)| count).sum()
    }
}

impl Host for FakeHost {
    type Page = FakePage;

    fn map_grant(&self, domain: DomId, reference: GrantRef) -> Result<FakePage, HostError> {
        let page = self.tables().pages.get(&(domain, reference)).cloned();
        page.ok_or_else(|| HostError::new(format!("{domain} grants nothing by {reference:?}")))
    }

    fn bind_port(&self, domain: DomId, remote: EventPort, bell: Arc<Bell>) -> Result<EventPort, HostError> {
        let mut tables = self.tables();
        let offer = tables.offers.get_mut(&(domain, remote)).filter(|bound| bound.is_none());
        *offer.ok_or_else(|| HostError::new(format!("{domain} offers no {remote:?}")))? = Some(bell);
        tables.ports.push(((domain, remote), 0));
        Ok(EventPort(tables.ports.len() as u32))
    }

    fn notify(&self, port: EventPort) -> Result<(), HostError> {
        let mut tables = self.tables();
        let own = (port.0 as usize).checked_sub(1).and_then(|index| tables.ports.get_mut(index));
        own.ok_or_else(|| HostError::new(format!("{port:?} is not bound")))?.1 += 1;
        Ok(())
    }
}
