//! The ways out of a session that are not the guest's.

use super::status::Failure;
use hypervisor::control::Hypervisor;
use hypervisor::domain::Domain;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Ends whatever domain there is, and the next before it starts.
///
/// It holds the hypervisor weakly: a thread that waits for a key must not keep it alive.
pub struct Exit {
    hypervisor: Weak<Hypervisor>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    left: bool,
    failure: Option<Failure>,
    domain: Option<Arc<Domain>>,
}

impl Exit {
    /// For the domains of a hypervisor.
    pub fn new(hypervisor: &Arc<Hypervisor>) -> Self {
        Self { hypervisor: Arc::downgrade(hypervisor), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user wants to leave.
    pub fn leave(&self) {
        let mut state = self.state();
        state.left = true;
        self.destroy(state.domain.as_deref());
    }

    /// The host fails the guest.
    pub fn fail(&self, failure: Failure) {
        self.state().failure.get_or_insert(failure);
        self.leave();
    }

    /// Whether the session was left by one of the two.
    pub fn has_left(&self) -> bool {
        self.state().left
    }

    /// What the host did.
    pub fn take_failure(&self) -> Option<Failure> {
        self.state().failure.take()
    }

    /// This is the domain to end.
    pub fn set_domain(&self, domain: &Arc<Domain>) {
        let mut state = self.state();
        state.domain = Some(Arc::clone(domain));
        if state.left {
            self.destroy(Some(domain));
        }
    }

    fn destroy(&self, domain: Option<&Domain>) {
        if let (Some(hypervisor), Some(domain)) = (self.hypervisor.upgrade(), domain) {
            hypervisor.destroy(domain);
        }
    }
}
