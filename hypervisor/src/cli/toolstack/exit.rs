//! The ways out of a run that are not the guests'.

use crate::cli::files::reason;
use crate::cli::printing::printer::Printer;
use crate::cli::status::Failure;
use backends::xenstore::StoreHandle;
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
    store: StoreHandle,
}

#[derive(Default)]
struct State {
    left: bool,
    /// The signal that ends the run.
    signal: Option<i32>,
    /// The guests are asked to shut down.
    asked: bool,
    /// What has become of each guest.
    ends: Vec<(String, String)>,
    failure: Option<Failure>,
    /// By the place of each on the command line.
    domains: BTreeMap<usize, Arc<Domain>>,
}

impl Exit {
    /// For the domains of a hypervisor, which find what they are asked in `store`.
    pub fn new(hypervisor: &Arc<Hypervisor>, store: StoreHandle) -> Self {
        Self {
            hypervisor: Arc::downgrade(hypervisor),
            state: Mutex::default(),
            changed: Condvar::new(),
            printer: OnceLock::new(),
            store,
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

    /// A signal asks the guests to shut down, as a toolstack does. False where there is none to be asked.
    pub fn ask(&self, signal: i32) -> bool {
        let mut state = self.state();
        (state.signal, state.asked) = (Some(signal), true);
        self.changed.notify_all();
        let live = state.domains.values().filter(|domain| !domain.life().has_ended());
        let live: Vec<_> = live.map(|domain| domain.id()).collect();
        drop(state);
        for id in &live {
            // One that cannot be asked is ended later.
            let _ = self.store.write(&format!("/local/domain/{}/control/shutdown", id.0), "poweroff");
        }
        !live.is_empty()
    }

    /// A signal ends the run.
    pub fn leave_by(&self, signal: i32) {
        self.state().signal.get_or_insert(signal);
        self.leave();
    }

    /// The signal that ends the run, if one does.
    pub fn signal(&self) -> Option<i32> {
        self.state().signal
    }

    /// Notes what has become of a guest.
    pub fn note_end(&self, name: &str, how: &str) {
        self.state().ends.push((name.to_owned(), how.to_owned()));
    }

    /// What has become of the guests, in a line.
    pub fn ends(&self) -> String {
        match self.state().ends.as_slice() {
            [] => "no guest ran".into(),
            [(_, how)] => format!("the guest {how}"),
            several => {
                several.iter().map(|(name, how)| format!("{name} {how}")).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Whether guests that end are not started again.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        state.left || state.asked
    }

    /// Whether the run was left by one of the two.
    pub fn has_left(&self) -> bool {
        self.state().left
    }

    /// Waits so long, unless guests are not started again: whether that is so.
    pub fn is_over_within(&self, time: Duration) -> bool {
        let goes_on = |state: &mut State| !state.left && !state.asked;
        drop(self.changed.wait_timeout_while(self.state(), time, goes_on));
        self.is_over()
    }

    /// Takes the first failure that was reported here; none where there was none.
    pub fn take_failure(&self) -> Option<Failure> {
        self.state().failure.take()
    }

    /// This is the domain to end at that place.
    pub fn set_domain(&self, index: usize, domain: &Arc<Domain>) {
        let mut state = self.state();
        state.domains.insert(index, Arc::clone(domain));
        if state.left || state.asked {
            self.destroy(domain);
        }
    }

    fn destroy(&self, domain: &Domain) {
        if let Some(hypervisor) = self.hypervisor.upgrade() {
            hypervisor.destroy(domain);
        }
    }
}
