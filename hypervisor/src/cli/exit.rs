//! The ways out of a run that are not the guests'.

use super::files::reason;
use super::printer::Printer;
use super::status::Failure;
use hypervisor::control::Hypervisor;
use hypervisor::domain::Domain;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// Ends whatever domains there are, and the next before they start.
///
/// It holds the hypervisor weakly: a thread that waits for a key must not keep it alive.
pub struct Exit {
    hypervisor: Weak<Hypervisor>,
    state: Mutex<State>,
    /// The state has changed.
    changed: Condvar,
    printer: OnceLock<Arc<Printer>>,
}

#[derive(Default)]
struct State {
    left: bool,
    failure: Option<Failure>,
    /// By the place of each on the command line.
    domains: BTreeMap<usize, Arc<Domain>>,
}

impl Exit {
    /// For the domains of a hypervisor.
    pub fn new(hypervisor: &Arc<Hypervisor>) -> Self {
        Self {
            hypervisor: Arc::downgrade(hypervisor),
            state: Mutex::default(),
            changed: Condvar::new(),
            printer: OnceLock::new(),
        }
    }

    /// What writes what domains say: whoever leaves waits no longer for that than a moment.
    pub fn set_printer(&self, printer: Arc<Printer>) {
        let _ = self.printer.set(printer);
    }

    /// Waits until all that was said is written, or the user has left; how many bytes were dropped.
    pub fn finish_output(&self) -> u64 {
        self.printer.get().map_or(0, |printer| printer.finish())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user wants to leave.
    pub fn leave(&self) {
        let mut state = self.state();
        state.left = true;
        self.changed.notify_all();
        self.printer.get().into_iter().for_each(|printer| printer.leave());
        state.domains.values().for_each(|domain| self.destroy(domain));
    }

    /// The host fails the guest.
    pub fn fail(&self, failure: Failure) {
        self.state().failure.get_or_insert(failure);
        self.leave();
    }

    /// What a guest says cannot be written.
    pub fn output_failed(&self, error: &io::Error) {
        match error.kind() {
            // Whoever read it has seen enough.
            io::ErrorKind::BrokenPipe => self.leave(),
            _ => self.fail(Failure::about("the guest's output", reason(error))),
        }
    }

    /// Whether the run was left by one of the two.
    pub fn has_left(&self) -> bool {
        self.state().left
    }

    /// Waits so long, unless the run is left: whether it is.
    pub fn left_within(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), time, |state| !state.left);
        waited.unwrap_or_else(PoisonError::into_inner).0.left
    }

    /// What the host did.
    pub fn take_failure(&self) -> Option<Failure> {
        self.state().failure.take()
    }

    /// This is the domain to end at that place.
    pub fn set_domain(&self, index: usize, domain: &Arc<Domain>) {
        let mut state = self.state();
        state.domains.insert(index, Arc::clone(domain));
        if state.left {
            self.destroy(domain);
        }
    }

    fn destroy(&self, domain: &Domain) {
        if let Some(hypervisor) = self.hypervisor.upgrade() {
            hypervisor.destroy(domain);
        }
    }
}
