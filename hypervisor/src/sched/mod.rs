//! The scheduler: which vCPU is where, who sleeps, who must be woken or kicked, and the timers.
//!
//! States of a vCPU:
//! ```text
//!   offline ──start──▶ ready ──next──▶ running ──block──▶ blocked
//!      ▲                 ▲               │ │                 │
//!      │                 ├──── yield ────┘ │                 │
//!      │                 └──────────────────────── wake ─────┘
//!      └────────────────────── its domain ends ──────────────
//! ```
//! Invariants, with the tests that guard them (`sched::tests`):
//! - a vCPU is on at most one pcpu, and only pcpus hold it `loaded` that ran it last: no other may enter it before
//!   it is saved (`a_loaded_vcpu_runs_nowhere_else`);
//! - whoever makes something happen to a vCPU stores that first and calls `wake` then; whoever puts one to sleep
//!   looks once more under the lock. So no wake-up is lost (`a_wake_up_between_look_and_sleep_is_not_lost`);
//! - a pcpu is kicked only while it may be in guest mode: `in_guest` is set before the last look for events, and
//!   events are stored before `in_guest` is read (`a_pcpu_in_the_hypervisor_is_not_kicked`);
//! - one thread sleeps until the alarm: the next timer, or the end of a slice for which somebody waits.

mod policy;
mod timers;

#[cfg(test)]
mod tests;

pub use policy::{Policy, RoundRobin, SLICE, Turn};
pub use timers::TimerKind;

use crate::clock::{Clock, SECOND};
use crate::domain::{Domain, Wake};
use crate::event_channel::raise_virq;
use crate::lock::{Guard, Rank, Ranked};
use crate::machine::Kick;
use crate::vcpu::VcpuKey;
use pv_abi::DomId;
use pv_abi::event_channel::Virq;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar};
use std::time::Duration;
use timers::Timers;

/// A vCPU that has a pcpu for itself is still interrupted this often, so that its clock is refreshed.
const REFRESH: u64 = SECOND / 2;

/// What a vCPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Ready,
    Running(usize),
    Blocked,
}

#[derive(Debug)]
struct Entry {
    domain: Arc<Domain>,
    activity: Activity,
    /// The pcpu that holds what was not saved of it.
    loaded: Option<usize>,
}

/// What a pcpu does, under the lock.
#[derive(Debug, Default)]
struct Seat {
    turn: Option<Turn>,
    idle: bool,
    refresh_at: u64,
    /// It was kicked: no use in kicking it again before this.
    kick_again_at: u64,
}

impl Seat {
    /// When the vCPU on it must come back into the hypervisor.
    fn over_at(&self, waiting: bool) -> Option<u64> {
        let turn = self.turn?;
        Some(if waiting { turn.until.min(self.refresh_at) } else { self.refresh_at })
    }
}

struct Pcpu {
    kick: Arc<dyn Kick>,
    in_guest: AtomicBool,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    policy: Box<dyn Policy>,
    vcpus: BTreeMap<VcpuKey, Entry>,
    seats: Vec<Seat>,
    timers: Timers,
    stopping: bool,
    /// What the alarm thread sleeps until.
    alarm_at: u64,
}

/// See the head of this file.
pub struct Scheduler {
    clock: Arc<dyn Clock>,
    state: Ranked<State>,
    pcpus: Vec<Pcpu>,
    alarm: Condvar,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("pcpus", &self.pcpus.len()).finish_non_exhaustive()
    }
}

/// What a pcpu shall do next.
#[derive(Debug)]
pub enum Next {
    /// Run this vCPU, once the one that the pcpu ran before is saved, if that is another.
    Run {
        /// Whose turn it is.
        turn: Turn,
        /// Its domain.
        domain: Arc<Domain>,
    },
    /// Nothing to run; [`Scheduler::idle`] sleeps.
    Idle,
    /// The machine stops.
    Stop,
}

/// Why a vCPU leaves its pcpu.
pub enum Leave<'a> {
    /// Others shall run, it goes on later.
    Ready,
    /// It sleeps, unless the closure says that what it waits for is there.
    Blocked(&'a dyn Fn() -> bool),
    /// It never runs again.
    Ended,
}

impl State {
    fn waiting(&self) -> bool {
        self.vcpus.values().any(|entry| entry.activity == Activity::Ready)
    }

    /// When somebody has to look: the next timer, the end of a slice, the refresh of a clock.
    fn alarm(&self) -> u64 {
        let waiting = self.waiting();
        let seats = self.seats.iter().filter_map(|seat| Some(seat.over_at(waiting)?.max(seat.kick_again_at)));
        seats.chain(self.timers.next()).min().unwrap_or(u64::MAX)
    }
}

impl Scheduler {
    /// A scheduler for as many pcpus as there are kicks.
    pub fn new(clock: Arc<dyn Clock>, policy: Box<dyn Policy>, kicks: Vec<Arc<dyn Kick>>) -> Self {
        let seats = kicks.iter().map(|_| Seat::default()).collect();
        let vcpus = BTreeMap::new();
        let timers = Timers::default();
        let state = State { policy, vcpus, seats, timers, stopping: false, alarm_at: u64::MAX };
        let pcpu = |kick| Pcpu { kick, in_guest: AtomicBool::new(false), wake: Condvar::new() };
        let pcpus = kicks.into_iter().map(pcpu).collect();
        Self { clock, state: Ranked::new(Rank::Scheduler, state), pcpus, alarm: Condvar::new() }
    }

    /// Wakes the alarm thread where it sleeps too long.
    fn settle(&self, state: &Guard<'_, State>) {
        if state.alarm() < state.alarm_at {
            self.alarm.notify_one();
        }
    }

    /// Makes a vCPU ready, and an idle pcpu look.
    fn make_ready(&self, state: &mut State, vcpu: VcpuKey) {
        let Some(entry) = state.vcpus.get_mut(&vcpu) else { return };
        entry.activity = Activity::Ready;
        let loaded = entry.loaded;
        state.policy.ready(vcpu, self.clock.now());
        let idle = |pcpu: &usize| state.seats.get(*pcpu).is_some_and(|seat| seat.idle);
        let chosen = loaded.or_else(|| (0..state.seats.len()).find(idle)).filter(idle);
        self.wake_pcpu(chosen);
    }

    fn wake_pcpu(&self, pcpu: Option<usize>) {
        if let Some(pcpu) = pcpu.and_then(|index| self.pcpus.get(index)) {
            pcpu.wake.notify_one();
        }
    }

    fn kick(&self, pcpu: usize) {
        if let Some(pcpu) = self.pcpus.get(pcpu)
            && pcpu.in_guest.load(Ordering::SeqCst)
        {
            pcpu.kick.kick();
        }
    }

    /// Lets a domain's vCPU 0 run. The others start when the guest starts them.
    pub fn start(&self, domain: &Arc<Domain>) {
        let mut state = self.state.lock();
        if let Some(vcpu) = domain.vcpus().first() {
            let entry = Entry { domain: domain.clone(), activity: Activity::Blocked, loaded: None };
            state.vcpus.insert(vcpu.key(), entry);
            self.make_ready(&mut state, vcpu.key());
        }
        self.settle(&state);
    }

    /// Sees to it that the vCPUs of an ended domain leave their pcpus.
    pub fn evict(&self, id: DomId) {
        let mut state = self.state.lock();
        state.timers.forget(id);
        let keys: Vec<_> = state.vcpus.keys().filter(|key| key.domain == id).copied().collect();
        for key in keys {
            match state.vcpus.get(&key).map(|entry| entry.activity) {
                Some(Activity::Running(pcpu)) => self.kick(pcpu),
                // A pcpu picks it up, finds its domain ended, and takes it off.
                Some(Activity::Blocked) => self.make_ready(&mut state, key),
                Some(Activity::Ready) | None => {}
            }
        }
    }

    /// Whether a domain still has a vCPU that is, or could get, on a pcpu.
    pub fn knows(&self, id: DomId) -> bool {
        self.state.lock().vcpus.keys().any(|key| key.domain == id)
    }

    /// Sets or stops a timer. One in the past fires at once: the caller's pcpu looks before it enters a guest.
    pub fn set_timer(&self, vcpu: VcpuKey, kind: TimerKind, deadline: Option<u64>) {
        let mut state = self.state.lock();
        state.timers.set(vcpu, kind, deadline);
        self.settle(&state);
    }

    /// Fires the timers that are due.
    pub fn fire_timers(&self) {
        let now = self.clock.now();
        loop {
            let mut state = self.state.lock();
            if state.timers.next().is_none_or(|deadline| deadline > now) {
                return;
            }
            let Some((vcpu, kind)) = state.timers.take_due(now) else { return };
            let domain = state.vcpus.get(&vcpu).map(|entry| entry.domain.clone());
            drop(state);
            match (kind, domain) {
                (TimerKind::Singleshot, Some(domain)) => raise_virq(&domain, Virq::TIMER, vcpu.vcpu),
                (TimerKind::Poll, Some(_)) => self.wake(vcpu),
                (_, None) => {}
            }
        }
    }

    /// What `pcpu` shall do next.
    pub fn next(&self, pcpu: usize) -> Next {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.stopping {
            return Next::Stop;
        }
        let now = self.clock.now();
        let vcpus = &state.vcpus;
        let may_run =
            |key| vcpus.get(&key).is_some_and(|entry| entry.loaded.is_none_or(|holder| holder == pcpu));
        let Some(turn) = state.policy.next(now, &may_run) else { return Next::Idle };
        let (Some(entry), Some(seat)) = (state.vcpus.get_mut(&turn.vcpu), state.seats.get_mut(pcpu)) else {
            return Next::Idle;
        };
        (entry.activity, entry.loaded) = (Activity::Running(pcpu), Some(pcpu));
        let domain = entry.domain.clone();
        *seat = Seat { turn: Some(turn), refresh_at: now.saturating_add(REFRESH), ..Seat::default() };
        self.settle(&guard);
        Next::Run { turn, domain }
    }

    /// All of `vcpu` is in its context: any pcpu may run it.
    pub fn saved(&self, vcpu: VcpuKey) {
        let mut state = self.state.lock();
        let mut others_may = false;
        if let Some(entry) = state.vcpus.get_mut(&vcpu) {
            entry.loaded = None;
            others_may = entry.activity == Activity::Ready;
        }
        let idle = state.seats.iter().position(|seat| seat.idle);
        self.wake_pcpu(idle.filter(|_| others_may));
    }

    /// Whether the turn of the vCPU on `pcpu` is over: its slice ended and somebody waits, its clock is to be
    /// refreshed, or the machine stops.
    pub fn turn_is_over(&self, pcpu: usize) -> bool {
        let state = self.state.lock();
        let now = self.clock.now();
        let over_at = state.seats.get(pcpu).and_then(|seat| seat.over_at(state.waiting()));
        state.stopping || over_at.is_some_and(|at| at <= now)
    }

    /// The vCPU leaves `pcpu`.
    pub fn leave(&self, pcpu: usize, vcpu: VcpuKey, leave: &Leave<'_>) {
        let mut state = self.state.lock();
        if let Some(seat) = state.seats.get_mut(pcpu) {
            seat.turn = None;
        }
        match leave {
            Leave::Ended => {
                state.vcpus.remove(&vcpu);
            }
            Leave::Blocked(is_there) if !is_there() => {
                if let Some(entry) = state.vcpus.get_mut(&vcpu) {
                    entry.activity = Activity::Blocked;
                }
            }
            Leave::Blocked(_) | Leave::Ready => self.make_ready(&mut state, vcpu),
        }
    }

    /// `pcpu` is about to enter a guest. To be called before the last look for events.
    pub fn entering(&self, pcpu: usize) {
        if let Some(pcpu) = self.pcpus.get(pcpu) {
            pcpu.in_guest.store(true, Ordering::SeqCst);
        }
    }

    /// `pcpu` is back.
    pub fn entered(&self, pcpu: usize) {
        if let Some(pcpu) = self.pcpus.get(pcpu) {
            pcpu.in_guest.store(false, Ordering::SeqCst);
        }
    }

    /// Sleeps until there may be something for `pcpu` to run.
    pub fn idle(&self, pcpu: usize) {
        let mut state = self.state.lock();
        let vcpus = &state.vcpus;
        let for_us = |entry: &Entry| {
            entry.activity == Activity::Ready && entry.loaded.is_none_or(|holder| holder == pcpu)
        };
        if state.stopping || vcpus.values().any(for_us) {
            return;
        }
        if let Some(seat) = state.seats.get_mut(pcpu) {
            seat.idle = true;
        }
        let Some(this) = self.pcpus.get(pcpu) else { return };
        let mut state = state.wait(&this.wake, None);
        if let Some(seat) = state.seats.get_mut(pcpu) {
            seat.idle = false;
        }
    }

    /// Sleeps until the alarm, then fires timers and kicks pcpus. False when the machine stops.
    pub fn alarm(&self) -> bool {
        let mut state = self.state.lock();
        if state.stopping {
            return false;
        }
        let alarm_at = state.alarm();
        state.alarm_at = alarm_at;
        let left = alarm_at.saturating_sub(self.clock.now());
        if left > 0 {
            let limit = (alarm_at != u64::MAX).then(|| Duration::from_nanos(left));
            state = state.wait(&self.alarm, limit);
        }
        // From here on nobody needs to notify: the alarm is computed anew before the next sleep.
        state.alarm_at = 0;
        let (now, waiting) = (self.clock.now(), state.waiting());
        for (index, seat) in state.seats.iter_mut().enumerate() {
            if seat.over_at(waiting).is_some_and(|at| at <= now) {
                // It looks at the time by itself before it enters a guest, so one kick is enough.
                seat.kick_again_at = now.saturating_add(SLICE);
                self.kick(index);
            }
        }
        drop(state);
        self.fire_timers();
        true
    }

    /// Makes everybody stop.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        self.alarm.notify_all();
        for (index, pcpu) in self.pcpus.iter().enumerate() {
            pcpu.wake.notify_all();
            self.kick(index);
        }
    }
}

impl Wake for Scheduler {
    fn wake(&self, vcpu: VcpuKey) {
        let mut state = self.state.lock();
        match state.vcpus.get(&vcpu).map(|entry| entry.activity) {
            Some(Activity::Blocked) => {
                self.make_ready(&mut state, vcpu);
                self.settle(&state);
            }
            Some(Activity::Running(pcpu)) => self.kick(pcpu),
            Some(Activity::Ready) | None => {}
        }
    }
}
