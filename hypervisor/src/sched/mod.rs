//! The scheduler: which vCPU is where, who sleeps, who must be woken or kicked.
//!
//! States of a vCPU:
//! ```text
//!   unknown ──start──▶ ready ──next──▶ running ──block──▶ blocked
//!      ▲                 ▲               │ │                 │
//!      │                 ├──── yield ────┘ │                 │
//!      │                 └──────────────────────── wake ─────┘
//!      └────────────────────── its domain ends ──────────────
//! ```
//! A vCPU can be stopped in each of them, and started again, and its domain paused: it then stays what it is, and gets no
//! pcpu meanwhile.
//!
//! Invariants, with the tests that guard them (`sched::tests` where nothing else is said):
//! - a vCPU is on at most one pcpu; the one that ran it last holds it `loaded`, and no other may enter it before it
//!   is saved (`a_loaded_vcpu_runs_nowhere_else`);
//! - whoever makes something happen to a vCPU stores that first and calls `wake` then; whoever puts one to sleep
//!   looks once more under the lock. So no wake-up is lost (`run_loop`'s
//!   `a_wake_up_between_look_and_sleep_is_not_lost`, `no_wake_up_is_lost_in_a_thousand`);
//! - no pcpu sleeps while a vCPU that it may run is ready: each wakes a pcpu of its own
//!   (`each_ready_vcpu_wakes_a_pcpu_of_its_own`);
//! - a pcpu is kicked only while it may be in guest mode: `in_guest` is set before the last look for events, and
//!   events are stored before `in_guest` is read (`a_pcpu_in_the_hypervisor_is_not_kicked`);
//! - a slice ends only where somebody waits for a pcpu; the thread of the [`Alarm`] kicks the pcpu then
//!   (`a_turn_ends_with_its_slice_only_where_somebody_waits`);
//! - before an entry a pcpu looks at the time when its turn ends, and takes no lock for that. Whoever changes it stores it
//!   first and kicks then, as with events (`pcpus_and_the_policy_know_exactly_what_holds`);
//! - a vCPU that was stopped runs nowhere once it has left its pcpu, and misses no wake-up
//!   (`a_vcpu_that_was_stopped_gets_no_pcpu`); the last of a domain is not stopped (`the_last_vcpu_is_not_stopped`);
//! - when [`Scheduler::pause`] has returned, nothing of the domain's vCPUs is on a pcpu; and they miss no wake-up
//!   (`a_paused_domain_is_on_no_pcpu_and_misses_nothing`);
//! - the policy knows exactly those who wait for a pcpu (`pcpus_and_the_policy_know_exactly_what_holds`);
//! - domains share the pcpus evenly, whatever vCPUs they have (`domains_share_evenly_whatever_vcpus_they_have`), and
//!   however short their turns are: a turn costs the time for which others have waited meanwhile
//!   (`domains_share_evenly_however_short_their_turns_are`, `a_turn_costs_the_time_for_which_others_waited`). Who does not
//!   wait, because it sleeps, is stopped or is paused, saves nothing up meanwhile, and loses no debt
//!   (`who_was_paused_or_stopped_has_saved_up_nothing`, `a_pause_forgives_nothing`);
//! - a pcpu that the machine failed runs nothing any more, and takes only those with it whose state it holds
//!   (`a_failed_pcpu_takes_only_its_own_with_it`); of who is gone nothing is left for who has the number next
//!   (`a_vcpu_that_is_gone_leaves_no_turn_to_its_number`).

mod policy;
mod runstate;
mod state;

#[cfg(test)]
mod tests;

pub use policy::{FairShare, Policy, SLICE, Turn};
pub use runstate::Account;

use crate::alarm::Alarm;
use crate::clock::{Clock, SECOND};
use crate::domain::{Domain, Wake};
use crate::lock::{Guard, Rank, Ranked};
use crate::machine::Kick;
use crate::sync::Condvar;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::vcpu::VcpuKey;
use pv_abi::DomId;
use state::{Activity, Entry, PcpuState, State};
use std::fmt;
use std::sync::Arc;

/// A vCPU that has a pcpu for itself is still interrupted this often, so that its clock is refreshed.
const REFRESH: u64 = SECOND / 2;

struct Pcpu {
    kick: Arc<dyn Kick>,
    in_guest: AtomicBool,
    /// See [`state::PcpuState::over_at`].
    over_at: Arc<AtomicU64>,
    wake: Condvar,
}

/// See the head of this file.
pub struct Scheduler {
    clock: Arc<dyn Clock>,
    state: Ranked<State>,
    pcpus: Vec<Pcpu>,
    alarm: Arc<Alarm>,
    /// A vCPU of a paused domain has left its pcpu, or the domain is not paused any more.
    quiet: Condvar,
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
        /// The vCPU, and until when it may run.
        turn: Turn,
        /// The domain that the vCPU is of.
        domain: Arc<Domain>,
    },
    /// Save the vCPU that the pcpu ran last, if there is one: its domain is paused.
    Save,
    /// Nothing to run; [`Scheduler::idle`] sleeps.
    Idle,
    /// The machine stops, or has failed this pcpu.
    Stop,
}

/// Why a vCPU leaves its pcpu.
pub enum Leave<'a> {
    /// Others shall run, it goes on later.
    Ready,
    /// It sleeps, unless the closure says that what it waits for is there.
    Blocked(&'a dyn Fn() -> bool),
    /// The vCPU never runs again.
    Ended,
}

impl Scheduler {
    /// A scheduler for as many pcpus as there are kicks. The thread of `alarm` calls [`Self::kick_overdue`].
    pub fn new(
        clock: Arc<dyn Clock>,
        alarm: Arc<Alarm>,
        policy: Box<dyn Policy>,
        kicks: Vec<Arc<dyn Kick>>,
    ) -> Self {
        let state = State::new(policy, kicks.len());
        let pcpu = |(kick, slot): (_, &PcpuState)| Pcpu {
            kick,
            in_guest: AtomicBool::new(false),
            over_at: Arc::clone(&slot.over_at),
            wake: Condvar::new(),
        };
        let pcpus = kicks.into_iter().zip(&state.slots).map(pcpu).collect();
        Self { clock, state: Ranked::new(Rank::Scheduler, state), pcpus, alarm, quiet: Condvar::new() }
    }

    /// Wakes the alarm's thread where it would sleep too long.
    fn settle(&self, state: &Guard<'_, State>) {
        self.alarm.no_later_than(state.next_kick());
    }

    /// Changes what a vCPU does, or whether it may have a pcpu, and tells whoever should look then.
    fn change(&self, state: &mut Guard<'_, State>, vcpu: VcpuKey, change: impl FnOnce(&mut Entry)) {
        let pcpu = state.change(vcpu, self.clock.now(), change);
        self.wake_pcpu(pcpu);
        self.settle(state);
    }

    fn make_ready(&self, state: &mut Guard<'_, State>, vcpu: VcpuKey) {
        self.change(state, vcpu, |entry| entry.activity = Activity::Ready);
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
            state.vcpus.insert(vcpu.key(), Entry::new(domain.clone()));
            self.make_ready(&mut state, vcpu.key());
        }
    }

    /// Starts a vCPU of a running domain, or lets one go on that was stopped.
    pub fn up(&self, domain: &Arc<Domain>, vcpu: VcpuKey) {
        let mut state = self.state.lock();
        if domain.life().has_ended() {
            return; // the reaper may have looked already who is to be evicted
        }
        if state.activity(vcpu).is_some() {
            return self.change(&mut state, vcpu, |entry| entry.online = true);
        }
        state.vcpus.insert(vcpu, Entry::new(domain.clone()));
        self.make_ready(&mut state, vcpu);
    }

    /// Stops a vCPU: it soon leaves its pcpu, and gets none. False, and it goes on, where no other of its domain is
    /// online.
    pub fn down(&self, vcpu: VcpuKey) -> bool {
        let mut state = self.state.lock();
        let others = state.of(vcpu.domain).into_iter().filter(|&other| other != vcpu);
        if !others.into_iter().any(|other| state.is_online(other)) {
            return false;
        }
        self.change(&mut state, vcpu, |entry| entry.online = false);
        if let Some(Activity::Running(pcpu)) = state.activity(vcpu) {
            self.kick(pcpu);
        }
        true
    }

    /// Whether a vCPU has been started, and not stopped since.
    pub fn is_up(&self, vcpu: VcpuKey) -> bool {
        self.state.lock().is_online(vcpu)
    }

    /// Where a vCPU's time has gone.
    pub fn account(&self, vcpu: VcpuKey) -> Account {
        self.state.lock().vcpus.get(&vcpu).map(|entry| entry.account).unwrap_or_default()
    }

    /// Sees to it that the vCPUs of an ended domain leave their pcpus.
    pub fn evict(&self, id: DomId) {
        let mut state = self.state.lock();
        let nobody_runs = state.slots.iter().all(|slot| slot.failed);
        for key in state.of(id) {
            self.change(&mut state, key, |entry| (entry.online, entry.paused) = (true, false));
            match state.activity(key) {
                _ if nobody_runs => state.forget(key, self.clock.now()),
                Some(Activity::Running(pcpu)) => self.kick(pcpu),
                // A pcpu picks it up, finds its domain ended, and takes it off.
                Some(Activity::Blocked) => self.make_ready(&mut state, key),
                Some(Activity::Ready) | None => {}
            }
        }
        self.quiet.notify_all();
    }

    /// Takes a domain's vCPUs off their pcpus while its life says that it is paused, and lets them run again when it
    /// does not say so any more.
    fn heed_pause(&self, state: &mut Guard<'_, State>, domain: &Domain) {
        let paused = domain.life().is_paused();
        for key in state.of(domain.id()) {
            self.change(state, key, |entry| entry.paused = paused);
            let saving = state.save(key);
            self.wake_pcpu(saving);
            if let (true, Some(Activity::Running(pcpu))) = (paused, state.activity(key)) {
                self.kick(pcpu);
            }
        }
        self.quiet.notify_all();
    }

    /// Waits until no pcpu runs a vCPU of a domain whose life says that it is paused, or holds anything of one: all of
    /// it is in their contexts then. False where it is not paused any more.
    pub fn pause(&self, domain: &Domain) -> bool {
        let mut state = self.state.lock();
        self.heed_pause(&mut state, domain);
        while domain.life().is_paused() {
            if state.is_quiet(domain.id()) {
                return true;
            }
            state = state.wait(&self.quiet, None);
        }
        false
    }

    /// Lets the vCPUs of a domain whose life is not paused any more run again.
    pub fn unpause(&self, domain: &Domain) {
        self.heed_pause(&mut self.state.lock(), domain);
    }

    /// Whether a domain still has a vCPU that is, or could get, on a pcpu.
    pub fn knows(&self, id: DomId) -> bool {
        !self.state.lock().of(id).is_empty()
    }

    /// What `pcpu` shall do next.
    pub fn next(&self, pcpu: usize) -> Next {
        let mut state = self.state.lock();
        if state.stopping || state.slots.get(pcpu).is_none_or(|slot| slot.failed) {
            return Next::Stop;
        }
        if state.slots.get_mut(pcpu).is_some_and(|slot| std::mem::take(&mut slot.save)) {
            return Next::Save;
        }
        let now = self.clock.now();
        let Some((turn, domain)) = state.next(pcpu, now, now.saturating_add(REFRESH)) else {
            return Next::Idle;
        };
        self.settle(&state);
        Next::Run { turn, domain }
    }

    /// All of `vcpu` is in its context: any pcpu may run it.
    pub fn saved(&self, vcpu: VcpuKey) {
        let mut state = self.state.lock();
        let mut others_may = false;
        if let Some(entry) = state.vcpus.get_mut(&vcpu) {
            entry.loaded = None;
            others_may = entry.waits();
            if entry.paused {
                self.quiet.notify_all();
            }
        }
        if others_may {
            let idle = state.claim_idle(None);
            self.wake_pcpu(idle);
        }
    }

    /// Whether the turn of the vCPU on `pcpu` is over: its slice ended and somebody waits, its clock is to be
    /// refreshed, it was stopped, its domain is paused, or the machine stops.
    pub fn turn_is_over(&self, pcpu: usize) -> bool {
        self.pcpus.get(pcpu).is_none_or(|pcpu| pcpu.over_at.load(Ordering::SeqCst) <= self.clock.now())
    }

    /// The vCPU leaves `pcpu`.
    pub fn leave(&self, pcpu: usize, vcpu: VcpuKey, leave: &Leave<'_>) {
        let mut state = self.state.lock();
        let now = self.clock.now();
        let used = state.end_turn(pcpu, now);
        match leave {
            Leave::Ended => state.forget(vcpu, now),
            Leave::Blocked(is_there) => {
                state.policy.charge(vcpu, used);
                match is_there() {
                    true => self.make_ready(&mut state, vcpu),
                    // Nobody has to look: it waits for no pcpu.
                    false => drop(state.change(vcpu, now, |entry| entry.activity = Activity::Blocked)),
                }
            }
            Leave::Ready => {
                // Whoever yields gives the rest of its slice away: it would be the next at once otherwise.
                state.policy.charge(vcpu, used.max(SLICE));
                self.make_ready(&mut state, vcpu);
            }
        }
    }

    /// Kicks the pcpus whose vCPUs should have come back by now.
    pub fn kick_overdue(&self) {
        let mut state = self.state.lock();
        let (now, others_wait) = (self.clock.now(), state.others_wait());
        for (index, slot) in state.slots.iter_mut().enumerate() {
            if slot.kick_at(others_wait).is_some_and(|at| at <= now) {
                // It looks at the time by itself before it enters a guest, so one kick is enough.
                slot.kick_again_at = now.saturating_add(SLICE);
                self.kick(index);
            }
        }
    }

    /// When [`Self::kick_overdue`] is to be called next: a system time.
    pub fn next_kick(&self) -> u64 {
        self.state.lock().next_kick()
    }

    /// `pcpu` is about to enter a guest. To be called before the last look for events.
    pub fn entering(&self, pcpu: usize) {
        if let Some(pcpu) = self.pcpus.get(pcpu) {
            pcpu.in_guest.store(true, Ordering::SeqCst);
        }
    }

    /// `pcpu` is not in a guest any more.
    pub fn entered(&self, pcpu: usize) {
        if let Some(pcpu) = self.pcpus.get(pcpu) {
            pcpu.in_guest.store(false, Ordering::SeqCst);
        }
    }

    /// Sleeps until there may be something for `pcpu` to run.
    pub fn idle(&self, pcpu: usize) {
        let mut state = self.state.lock();
        let (Some(this), false) = (self.pcpus.get(pcpu), state.stopping || state.has_work_for(pcpu)) else {
            return;
        };
        if let Some(slot) = state.slots.get_mut(pcpu) {
            slot.idle = true;
        }
        let mut state = state.wait(&this.wake, None);
        if let Some(slot) = state.slots.get_mut(pcpu) {
            slot.idle = false;
        }
    }

    /// The machine failed `pcpu`: it runs nothing any more. The vCPUs that cannot go on without it, each with its
    /// domain: those whose state it holds, and all where it was the last.
    pub fn fail(&self, pcpu: usize) -> Vec<(Arc<Domain>, VcpuKey)> {
        let mut state = self.state.lock();
        if let Some(slot) = state.slots.get_mut(pcpu) {
            slot.failed = true;
        }
        let was_last = state.slots.iter().all(|slot| slot.failed);
        let goes = |entry: &Entry| was_last || entry.loaded == Some(pcpu);
        let lost: Vec<_> = state
            .vcpus
            .iter()
            .filter(|(_, entry)| goes(entry))
            .map(|(&key, entry)| (entry.domain.clone(), key))
            .collect();
        let now = self.clock.now();
        lost.iter().for_each(|&(_, key)| state.forget(key, now));
        lost
    }

    /// Whether a vCPU has been started, whether or not it was stopped since.
    pub fn has_started(&self, vcpu: VcpuKey) -> bool {
        self.state.lock().activity(vcpu).is_some()
    }

    /// Makes all pcpus stop.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.stop();
        for (index, pcpu) in self.pcpus.iter().enumerate() {
            pcpu.wake.notify_all();
            self.kick(index);
        }
    }
}

impl Wake for Scheduler {
    fn wake(&self, vcpu: VcpuKey) {
        let mut state = self.state.lock();
        match state.activity(vcpu) {
            Some(Activity::Blocked) => self.make_ready(&mut state, vcpu),
            Some(Activity::Running(pcpu)) => self.kick(pcpu),
            Some(Activity::Ready) | None => {}
        }
    }
}
