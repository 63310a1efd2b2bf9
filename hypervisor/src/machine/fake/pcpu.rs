//! Pcpus that play scripts: what a guest does is a list of closures, each of which changes the context as the guest's
//! instructions would and says why it stopped.

use super::super::{Context, Exit, Kick, MachineError, Pcpu, Sanitised};
use crate::clock::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What a guest does between two exits.
pub type Action = Box<dyn FnMut(&mut Context) -> Exit + Send>;

/// A guest, as far as a fake pcpu knows.
#[derive(Default)]
struct Script {
    actions: VecDeque<Action>,
    /// What it does when the list is empty; none: it loops, with no exit but by a kick.
    forever: Option<Action>,
}

/// The scripts of all guests by the identity of their contexts, shared by a machine's pcpus.
#[derive(Clone, Default)]
pub struct Scripts(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    scripts: BTreeMap<u64, Script>,
    /// Which pcpu holds what was not saved of a context.
    holders: BTreeMap<u64, usize>,
}

impl fmt::Debug for Scripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripts")
    }
}

impl Scripts {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what the guest in the context `identity` does.
    pub fn push(&self, identity: u64, action: impl FnMut(&mut Context) -> Exit + Send + 'static) {
        self.state().scripts.entry(identity).or_default().actions.push_back(Box::new(action));
    }

    /// What the guest does when its list is empty, again and again.
    pub fn forever(&self, identity: u64, action: impl FnMut(&mut Context) -> Exit + Send + 'static) {
        self.state().scripts.entry(identity).or_default().forever = Some(Box::new(action));
    }

    /// Actions that were not played.
    pub fn left(&self, identity: u64) -> usize {
        self.state().scripts.get(&identity).map_or(0, |script| script.actions.len())
    }

    /// Takes the next action out, so that it is played without a lock.
    fn take(&self, identity: u64) -> Option<(Action, bool)> {
        let mut state = self.state();
        let script = state.scripts.get_mut(&identity)?;
        let next = script.actions.pop_front().map(|action| (action, false));
        next.or_else(|| script.forever.take().map(|action| (action, true)))
    }

    fn put_back(&self, identity: u64, action: Action) {
        if let Some(script) = self.state().scripts.get_mut(&identity) {
            script.forever.get_or_insert(action);
        }
    }
}

/// Kicks a [`FakePcpu`]; a kick that finds it elsewhere is kept.
#[derive(Debug, Default)]
pub struct FakeKick {
    pending: Mutex<bool>,
    wake: Condvar,
    kicks: AtomicU64,
}

impl FakeKick {
    /// How many times the pcpu was kicked so far.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::SeqCst)
    }

    fn take(&self) -> bool {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wait(&self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        while !std::mem::take(&mut *pending) {
            pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Kick for FakeKick {
    fn kick(&self) {
        self.kicks.fetch_add(1, Ordering::SeqCst);
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }
}

/// A pcpu that plays scripts. Its TSC is system time at 1 GHz.
#[derive(Debug)]
pub struct FakePcpu {
    index: usize,
    scripts: Scripts,
    clock: Arc<dyn Clock>,
    kick: Arc<FakeKick>,
}

impl FakePcpu {
    /// Pcpu `index` of a machine.
    pub fn new(index: usize, scripts: Scripts, clock: Arc<dyn Clock>) -> Self {
        Self { index, scripts, clock, kick: Arc::default() }
    }

    /// The handle by which other threads kick this pcpu.
    pub fn kick(&self) -> Arc<FakeKick> {
        self.kick.clone()
    }
}

impl Pcpu for FakePcpu {
    fn run(&mut self, mut context: Sanitised<'_>) -> Result<Exit, MachineError> {
        let holder = self.scripts.state().holders.insert(context.identity, self.index);
        assert!(holder.is_none_or(|pcpu| pcpu == self.index), "entered here, unsaved on pcpu {holder:?}");
        if self.kick.take() {
            return Ok(Exit::Kicked);
        }
        let Some((mut action, again)) = self.scripts.take(context.identity) else {
            self.kick.wait();
            return Ok(Exit::Kicked);
        };
        let exit = action(&mut context);
        if again {
            self.scripts.put_back(context.identity, action);
        }
        Ok(exit)
    }

    fn save(&mut self, context: &mut Context) -> Result<(), MachineError> {
        let mut state = self.scripts.state();
        if state.holders.get(&context.identity) == Some(&self.index) {
            state.holders.remove(&context.identity);
        }
        Ok(())
    }

    fn guest_tsc(&self) -> u64 {
        self.clock.now()
    }
}
