//! Which domains there are.

use super::Domain;
use crate::lock::{Rank, Ranked};
use pv_abi::DomId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All domains of the machine but the host domain, which is threads.
#[derive(Debug)]
pub struct Domains(Ranked<State>);

#[derive(Debug)]
struct State {
    domains: BTreeMap<DomId, Arc<Domain>>,
    next: u16,
}

impl Default for Domains {
    fn default() -> Self {
        Self(Ranked::new(Rank::Registry, State { domains: BTreeMap::new(), next: 1 }))
    }
}

impl Domains {
    /// A number that no domain has, and of which `is_free` says that nothing is left of the last domain that had it;
    /// those of the dead come up again last. None where all are in use.
    pub fn next_id(&self, is_free: impl Fn(DomId) -> bool) -> Option<DomId> {
        let mut state = self.0.lock();
        for _ in 1..DomId::FIRST_RESERVED.0 {
            let id = DomId(state.next);
            let next = id.0.saturating_add(1);
            state.next = if next < DomId::FIRST_RESERVED.0 { next } else { 1 };
            if !state.domains.contains_key(&id) && is_free(id) {
                return Some(id);
            }
        }
        None
    }

    /// Adds a domain under its number.
    pub fn insert(&self, domain: Arc<Domain>) {
        self.0.lock().domains.insert(domain.id(), domain);
    }

    /// Forgets a domain, so that its number may be used again.
    pub fn remove(&self, id: DomId) {
        let removed = self.0.lock().domains.remove(&id);
        drop(removed); // outside the lock: it may be the last reference
    }

    /// The domain of that number.
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        self.0.lock().domains.get(&id).cloned()
    }

    /// All domains there are now, by rising number.
    pub fn all(&self) -> Vec<Arc<Domain>> {
        self.0.lock().domains.values().cloned().collect()
    }
}
