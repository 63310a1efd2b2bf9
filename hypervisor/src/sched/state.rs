//! What the scheduler knows, and what follows from it. Plain data: nobody is woken or kicked in here.

use super::policy::{Policy, Turn};
use super::runstate::Account;
use crate::domain::Domain;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::vcpu::VcpuKey;
use pv_abi::vcpu::Runstate;
use pv_abi::{DomId, VcpuId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether a vCPU is on a pcpu, waits for one, or sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Ready,
    Running(usize),
    Blocked,
}

/// A vCPU that has been started.
#[derive(Debug)]
pub(super) struct Entry {
    pub domain: Arc<Domain>,
    pub activity: Activity,
    /// It was not stopped since. One that was keeps its activity, and gets no pcpu.
    pub online: bool,
    /// Its domain is paused: it keeps its activity, and gets no pcpu.
    pub paused: bool,
    /// The pcpu that holds what was not saved of it.
    pub loaded: Option<usize>,
    /// Where the vCPU's time has gone.
    pub account: Account,
}

impl Entry {
    /// One that has just been started, and sleeps.
    pub fn new(domain: Arc<Domain>) -> Self {
        let (account, paused) = (Account::default(), domain.life().is_paused());
        Self { domain, activity: Activity::Blocked, online: true, paused, loaded: None, account }
    }

    /// Whether it gets a pcpu when it is ready.
    pub fn may_run(&self) -> bool {
        self.online && !self.paused
    }

    /// Whether no pcpu runs it, or holds what was not saved of it.
    pub fn is_quiet(&self) -> bool {
        !matches!(self.activity, Activity::Running(_)) && self.loaded.is_none()
    }

    /// Accounts for a change of what it does, at system time `now`.
    pub fn note(&mut self, now: u64) {
        let state = match self.activity {
            Activity::Running(_) => Runstate::RUNNING,
            Activity::Blocked if self.online => Runstate::BLOCKED,
            Activity::Ready if self.may_run() => Runstate::RUNNABLE,
            Activity::Ready | Activity::Blocked => Runstate::OFFLINE,
        };
        self.account.note(state, now);
    }

    /// Whether `pcpu` may enter it.
    fn fits(&self, pcpu: usize) -> bool {
        self.may_run() && self.loaded.is_none_or(|holder| holder == pcpu)
    }

    /// Whether it waits for a pcpu.
    pub fn waits(&self) -> bool {
        self.may_run() && self.activity == Activity::Ready
    }
}

/// What the scheduler knows of a pcpu.
#[derive(Debug, Default)]
pub(super) struct PcpuState {
    pub turn: Option<Turn>,
    pub idle: bool,
    /// The machine failed it: it runs nothing any more.
    pub failed: bool,
    pub refresh_at: u64,
    /// The vCPU that it holds is to be saved: its domain is paused.
    pub save: bool,
    /// It was kicked: no use in kicking it again before this.
    pub kick_again_at: u64,
    /// What [`Contention`] said when its turn began.
    pub contended_before: u64,
    /// When the vCPU on it must come back into the hypervisor, for a pcpu that looks without the lock.
    pub over_at: Arc<AtomicU64>,
}

impl PcpuState {
    /// When the turn on it is over by itself.
    pub fn turn_ends_at(&self, others_wait: bool) -> Option<u64> {
        let turn = self.turn?;
        Some(if others_wait { turn.until.min(self.refresh_at) } else { self.refresh_at })
    }

    /// When it is to be kicked, so that its vCPU comes back.
    pub fn kick_at(&self, others_wait: bool) -> Option<u64> {
        Some(self.turn_ends_at(others_wait)?.max(self.kick_again_at))
    }
}

/// For how long somebody has waited for a pcpu, in nanoseconds: only then does a turn cost anybody anything.
#[derive(Debug, Default)]
pub(super) struct Contention {
    before: u64,
    since: Option<u64>,
}

impl Contention {
    /// Until system time `now`.
    pub fn until(&self, now: u64) -> u64 {
        self.before.saturating_add(self.since.map_or(0, |since| now.saturating_sub(since)))
    }

    /// From `now` on somebody waits, or nobody.
    fn note(&mut self, waits: bool, now: u64) {
        *self = Self { before: self.until(now), since: waits.then_some(now) };
    }
}

/// All of it, under one lock.
#[derive(Debug)]
pub(super) struct State {
    pub policy: Box<dyn Policy>,
    pub vcpus: BTreeMap<VcpuKey, Entry>,
    pub slots: Vec<PcpuState>,
    pub stopping: bool,
    /// vCPUs that wait for a pcpu.
    waiting: usize,
    pub contention: Contention,
}

impl State {
    pub fn new(policy: Box<dyn Policy>, pcpus: usize) -> Self {
        Self {
            policy,
            vcpus: BTreeMap::new(),
            slots: (0..pcpus).map(|_| PcpuState::default()).collect(),
            stopping: false,
            waiting: 0,
            contention: Contention::default(),
        }
    }

    /// Whether a vCPU waits for a pcpu.
    pub fn others_wait(&self) -> bool {
        self.waiting > 0
    }

    /// What a vCPU does; nothing where it was never started.
    pub fn activity(&self, vcpu: VcpuKey) -> Option<Activity> {
        self.vcpus.get(&vcpu).map(|entry| entry.activity)
    }

    /// Whether no pcpu runs a vCPU of a domain, or holds what was not saved of one.
    pub fn is_quiet(&self, domain: DomId) -> bool {
        self.of(domain).iter().all(|key| self.vcpus.get(key).is_none_or(Entry::is_quiet))
    }

    /// A domain's vCPUs that have been started.
    pub fn of(&self, domain: DomId) -> Vec<VcpuKey> {
        let all = |vcpu| VcpuKey { domain, vcpu: VcpuId(vcpu) };
        self.vcpus.range(all(0)..=all(u32::MAX)).map(|(&key, _)| key).collect()
    }

    /// When a pcpu has to be kicked: at the end of a slice, for the refresh of a clock.
    pub fn next_kick(&self) -> u64 {
        let kick_at = |slot: &PcpuState| slot.kick_at(self.others_wait());
        self.slots.iter().filter_map(kick_at).min().unwrap_or(u64::MAX)
    }

    /// Says to a pcpu when the vCPU on it must come back, after that has changed.
    fn publish(&self, pcpu: usize) {
        let Some(slot) = self.slots.get(pcpu) else { return };
        let may_run = |turn: Turn| self.vcpus.get(&turn.vcpu).is_some_and(Entry::may_run);
        let at = match slot.turn_ends_at(self.others_wait()) {
            _ if self.stopping || slot.turn.is_some_and(|turn| !may_run(turn)) => 0,
            ends_at => ends_at.unwrap_or(u64::MAX),
        };
        slot.over_at.store(at, Ordering::SeqCst);
    }

    fn publish_all(&self) {
        (0..self.slots.len()).for_each(|pcpu| self.publish(pcpu));
    }

    /// Every turn is over from now on, and no vCPU gets another.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.publish_all();
    }

    /// Somebody waits, or waits no more. Turns end otherwise where it is the first, or was the last.
    fn count_waiting(&mut self, change: isize, now: u64) {
        let others_waited = self.others_wait();
        self.waiting = self.waiting.saturating_add_signed(change);
        if self.others_wait() != others_waited {
            self.contention.note(self.others_wait(), now);
            self.publish_all();
        }
    }

    /// Changes what a vCPU that has been started does, or whether it may have a pcpu: the policy knows exactly those who
    /// wait. The idle pcpu that should look, where it waits since this change and there is one.
    pub fn change(&mut self, vcpu: VcpuKey, now: u64, change: impl FnOnce(&mut Entry)) -> Option<usize> {
        let entry = self.vcpus.get_mut(&vcpu)?;
        let waited = entry.waits();
        change(entry);
        entry.note(now);
        let loaded = entry.loaded;
        match (waited, entry.waits(), entry.activity) {
            (false, true, _) => {
                self.policy.ready(vcpu);
                self.count_waiting(1, now);
                return self.claim_idle(loaded);
            }
            (true, false, _) => {
                self.policy.withdraw(vcpu);
                self.count_waiting(-1, now);
            }
            (.., Activity::Running(pcpu)) => self.publish(pcpu),
            _ => {}
        }
        None
    }

    /// An idle pcpu; where `only` is given, that one or none. It counts as busy from now on, so that the next vCPU
    /// gets another.
    pub fn claim_idle(&mut self, only: Option<usize>) -> Option<usize> {
        let fits = |pcpu: usize| only.is_none_or(|only| only == pcpu);
        let mut slots = self.slots.iter_mut().enumerate();
        let (pcpu, slot) = slots.find(|(pcpu, slot)| slot.idle && fits(*pcpu))?;
        slot.idle = false;
        Some(pcpu)
    }

    /// Has the pcpu save what it holds of a vCPU of a paused domain. The pcpu, where it is to be woken for that.
    pub fn save(&mut self, vcpu: VcpuKey) -> Option<usize> {
        let pcpu = self.vcpus.get(&vcpu).filter(|entry| entry.paused)?.loaded?;
        self.slots.get_mut(pcpu)?.save = true;
        self.claim_idle(Some(pcpu))
    }

    /// Whether a vCPU was started, and not stopped since.
    pub fn is_online(&self, vcpu: VcpuKey) -> bool {
        self.vcpus.get(&vcpu).is_some_and(|entry| entry.online)
    }

    /// The next turn on `pcpu`, and whose domain's it is.
    pub fn next(&mut self, pcpu: usize, now: u64, refresh_at: u64) -> Option<(Turn, Arc<Domain>)> {
        let vcpus = &self.vcpus;
        let fits = |key| vcpus.get(&key).is_some_and(|entry: &Entry| entry.fits(pcpu));
        let turn = self.policy.next(now, &fits)?;
        let (entry, slot) = (self.vcpus.get_mut(&turn.vcpu)?, self.slots.get_mut(pcpu)?);
        (entry.activity, entry.loaded) = (Activity::Running(pcpu), Some(pcpu));
        entry.note(now);
        let domain = entry.domain.clone();
        let over_at = Arc::clone(&slot.over_at);
        let contended_before = self.contention.until(now);
        *slot = PcpuState { turn: Some(turn), refresh_at, contended_before, over_at, ..PcpuState::default() };
        self.count_waiting(-1, now);
        self.publish(pcpu);
        Some((turn, domain))
    }

    /// The turn on `pcpu` is over. For how long others have waited meanwhile.
    pub fn end_turn(&mut self, pcpu: usize, now: u64) -> u64 {
        let contended = self.contention.until(now);
        let Some(slot) = self.slots.get_mut(pcpu) else { return 0 };
        slot.turn = None;
        let used = contended.saturating_sub(slot.contended_before);
        self.publish(pcpu);
        used
    }

    /// A vCPU never runs again. Its number may be used again, so nothing is left of it.
    pub fn forget(&mut self, vcpu: VcpuKey, now: u64) {
        self.policy.forget(vcpu);
        if self.vcpus.remove(&vcpu).is_some_and(|entry| entry.waits()) {
            self.count_waiting(-1, now);
        }
    }

    /// Whether there is something for `pcpu` to run or to save.
    pub fn has_work_for(&self, pcpu: usize) -> bool {
        let saves = self.slots.get(pcpu).is_some_and(|slot| slot.save);
        saves || self.others_wait() && self.vcpus.values().any(|entry| entry.waits() && entry.fits(pcpu))
    }
}
