//! What each pcpu's thread does: pick a vCPU, run it, act on its exits, account.
//!
//! One turn of a vCPU:
//! ```text
//!   pick ─▶ save the one before ─▶ refresh its clock ─▶ ┌▶ finish an interrupted hypercall
//!                                                       │  deliver events, sanitise    (vcpu::resume)
//!                                                       │  enter the guest
//!                                                       └─ act on the exit ─▶ leave: yield, block, end
//! ```
//! - Nothing that a guest does ends this loop: its faults end its domain, with a report.
//! - A pcpu that the machine fails ends what it ran and leaves the rest alone
//!   (`tests::pcpus::a_failed_pcpu_ends_what_it_ran_and_stops`, `tests::a_panic_in_the_machine_ends_what_its_pcpu_ran`).
//! - A panic, which is a defect of the hypervisor's own, ends the domain whose turn it was, and no other
//!   (`tests::a_panic_ends_the_domain_that_it_served`).
//! - A guest that never comes back by itself is kicked out, whatever it masks
//!   (`tests::a_guest_that_loops_does_not_stop_the_others`).
//! - Between [`Scheduler::entering`](crate::sched::Scheduler::entering) and the entry itself all is looked at once
//!   more: events, the end of the turn, the end of the domain. Whoever changes one of them stores it first and kicks
//!   then, so nothing is missed (`tests::an_event_for_a_running_vcpu_kicks_its_pcpu`).

mod exits;

#[cfg(test)]
mod tests;

use crate::contain::contained;
use crate::domain::{Domain, End};
use crate::error::Failure;
use crate::hypercall::resume;
use crate::machine::Pcpu;
use crate::sched::{Leave, Next};
use crate::services::Services;
use crate::trace::Record;
use crate::vcpu::{Rest, Vcpu, VcpuHandle, resume::prepare};
use exits::{act, after, crash};
use pv_abi::{EventPort, VcpuId};
use std::sync::Arc;

/// Why a vCPU's turn ends.
#[derive(Debug)]
enum TurnEnd {
    /// Others shall run; the vCPU stays ready.
    Over,
    /// It sleeps until an upcall is pending.
    Blocked,
    /// It sleeps until one of these ports is pending, or until a system time.
    Polling { ports: Vec<EventPort>, until: Option<u64> },
    /// It sleeps until its domain's emergency console has room.
    AwaitingRoom,
    /// The vCPU's domain has ended.
    Ended,
}

/// What a pcpu did when it looked for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Turn,
    Nothing,
    Stop,
}

/// A pcpu and the thread that runs it.
pub struct PcpuLoop {
    index: usize,
    pcpu: Box<dyn Pcpu>,
    services: Arc<Services>,
    /// The vCPU that ran last: the pcpu holds state of it.
    loaded: Option<(Arc<Domain>, VcpuId)>,
    /// The machine failed it: it cannot be used any more.
    failed: bool,
}

impl PcpuLoop {
    /// The loop of pcpu `index`.
    pub fn new(index: usize, pcpu: Box<dyn Pcpu>, services: Arc<Services>) -> Self {
        Self { index, pcpu, services, loaded: None, failed: false }
    }

    /// Runs until the machine stops.
    pub fn run(mut self) {
        loop {
            match self.once() {
                Did::Turn => {}
                Did::Nothing => self.services.scheduler.idle(self.index),
                Did::Stop => return,
            }
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn turn_for_test(&mut self) {
        self.once();
    }

    /// One turn of whoever's it is.
    fn once(&mut self) -> Did {
        self.services.fire_timers();
        match self.services.scheduler.next(self.index) {
            Next::Run { domain, turn } => {
                let id = turn.vcpu.vcpu;
                if let Err(defect) = contained(|| self.turn(&domain, id)) {
                    self.cut_short(&domain, id, &Failure::Host(defect));
                }
                if self.failed {
                    self.give_up();
                }
                Did::Turn
            }
            Next::Save => {
                if let Err(defect) = contained(|| drop(self.save())) {
                    tracing::error!(target: crate::defect::TARGET, pcpu = self.index, %defect, "a vCPU is lost");
                }
                if self.failed {
                    self.give_up();
                }
                Did::Turn
            }
            Next::Idle => Did::Nothing,
            Next::Stop => Did::Stop,
        }
    }

    /// A vCPU's turn, from getting the pcpu to leaving it.
    fn turn(&mut self, domain: &Arc<Domain>, id: VcpuId) {
        let Some(handle) = domain.vcpu(id) else { return };
        let (services, index) = (Arc::clone(&self.services), self.index);
        let tracer = services.tracer();
        let begun = tracer.now();
        if let Err(error) = self.load(domain, id) {
            crash(&self.services, domain, &handle.state().lock(), &error);
        }
        let mut vcpu = handle.state().lock();
        let clock = vcpu.clock.refresh(&*self.services.clock, || self.pcpu.guest_tsc());
        handle.info().publish(&clock);
        self.publish_runstate(handle, &vcpu);
        let started = self.services.clock.now();
        let end = self.run_vcpu(domain, handle, &mut vcpu);
        domain.statistics().ran(self.services.clock.now().saturating_sub(started));
        vcpu.clock.leave(self.pcpu.guest_tsc());
        tracer.record(begun, |span| {
            let rest = if matches!(end, TurnEnd::Over) { Rest::Ready } else { Rest::Blocked };
            let rest = vcpu.rest.replace((span.end, rest));
            Record::Turn { pcpu: index, vcpu: handle.key(), span, rest }
        });
        let scheduler = &self.services.scheduler;
        let leave = |how: &Leave<'_>| scheduler.leave(self.index, handle.key(), how);
        match end {
            TurnEnd::Over => leave(&Leave::Ready),
            TurnEnd::Blocked => {
                leave(&Leave::Blocked(&|| handle.info().wants_upcall() || domain.life().has_ended()));
            }
            TurnEnd::Polling { ports, until } => leave(&Leave::Blocked(&|| {
                // Its timer may have fired on another pcpu while it was on this one: then there is none any more.
                let is_over = until.is_some_and(|until| until <= self.services.clock.now());
                let is_pending = domain.shared().any_pending(&ports);
                is_over || is_pending || handle.info().wants_upcall() || domain.life().has_ended()
            })),
            TurnEnd::AwaitingRoom => {
                leave(&Leave::Blocked(&|| domain.console().has_room() || domain.life().has_ended()));
            }
            TurnEnd::Ended => {
                vcpu.release(&self.services.mmu);
                self.loaded = None;
                leave(&Leave::Ended);
                self.services.ended.ring();
                return;
            }
        }
        self.publish_runstate(handle, &vcpu);
    }

    /// Tells a vCPU, which the caller has, where its time goes, if it wants to know.
    fn publish_runstate(&self, handle: &VcpuHandle, vcpu: &Vcpu) {
        let area = handle.runstate_area();
        if area != 0 {
            let account = self.services.scheduler.account(handle.key());
            vcpu.publish_runstate(&self.services.mmu, area, &account.info());
        }
    }

    /// A panic has ended a vCPU's turn. What the vCPU holds is given back with its domain.
    fn cut_short(&mut self, domain: &Arc<Domain>, id: VcpuId, defect: &Failure) {
        let services = Arc::clone(&self.services);
        services.scheduler.entered(self.index);
        let Some(handle) = domain.vcpu(id) else { return };
        let report = || crash(&services, domain, &handle.state().lock(), defect);
        if contained(report).is_err() {
            domain.life().end(End::Destroyed);
        }
        self.loaded = None;
        services.scheduler.leave(self.index, handle.key(), &Leave::Ended);
        services.ended.ring();
    }

    /// Saves the vCPU that ran before, if it is another.
    fn load(&mut self, domain: &Arc<Domain>, id: VcpuId) -> Result<(), Failure> {
        let same = |(loaded, vcpu): &(Arc<Domain>, VcpuId)| Arc::ptr_eq(loaded, domain) && *vcpu == id;
        let saved = if self.loaded.as_ref().is_some_and(same) { Ok(()) } else { self.save() };
        self.loaded = Some((domain.clone(), id));
        saved
    }

    /// Puts all that the pcpu holds of the vCPU that ran last into its context.
    fn save(&mut self) -> Result<(), Failure> {
        let Some((domain, id)) = self.loaded.take() else { return Ok(()) };
        let Some(handle) = domain.vcpu(id) else { return Ok(()) };
        let mut vcpu = handle.state().lock();
        self.failed = true; // until it has come back
        let saved = self.pcpu.save(&mut vcpu.context).map_err(Failure::from);
        match &saved {
            Ok(()) => {
                self.failed = false;
                self.services.scheduler.saved(handle.key());
            }
            Err(failure) => {
                crash(&self.services, &domain, &vcpu, failure);
            }
        }
        saved
    }

    /// What cannot go on without this pcpu ends with it.
    fn give_up(&mut self) {
        let why = Failure::Host(format!("pcpu {} failed", self.index));
        for (domain, key) in self.services.scheduler.fail(self.index) {
            if let Some(vcpu) = domain.vcpu(key.vcpu) {
                crash(&self.services, &domain, &vcpu.state().lock(), &why);
            }
        }
        self.services.ended.ring();
    }

    fn run_vcpu(&mut self, domain: &Arc<Domain>, handle: &VcpuHandle, vcpu: &mut Vcpu) -> TurnEnd {
        loop {
            match self.step(domain, handle, vcpu) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(failure) => {
                    crash(&self.services, domain, vcpu, &failure);
                    return TurnEnd::Ended;
                }
            }
        }
    }

    /// Up to one entry into the guest, and what follows from its exit.
    fn step(
        &mut self,
        domain: &Arc<Domain>,
        handle: &VcpuHandle,
        vcpu: &mut Vcpu,
    ) -> Result<Option<TurnEnd>, Failure> {
        let services = &*self.services;
        let scheduler = &services.scheduler;
        if domain.life().has_ended() {
            return Ok(Some(TurnEnd::Ended));
        }
        services.fire_timers();
        if scheduler.turn_is_over(self.index) {
            return Ok(Some(TurnEnd::Over));
        }
        if let Some(reply) = resume(services, domain, handle, vcpu) {
            return after(reply);
        }
        if handle.take_descriptors_stale() {
            vcpu.reload_descriptors(&services.mmu);
        }
        scheduler.entering(self.index);
        if !self.is_ready(domain, handle, vcpu).inspect_err(|_| scheduler.entered(self.index))? {
            scheduler.entered(self.index);
            return Ok(None);
        }
        self.enter(domain, handle, vcpu)
    }

    /// The last look before an entry: whether the vCPU, made fit to run, shall run now.
    fn is_ready(&self, domain: &Domain, handle: &VcpuHandle, vcpu: &mut Vcpu) -> Result<bool, Failure> {
        let tracer = self.services.tracer();
        let started = tracer.now();
        let upcalls = prepare(vcpu, handle.info(), &self.services.mmu)?.upcalls;
        (0..upcalls).for_each(|_| {
            domain.statistics().upcall();
            tracer.record(started, |span| Record::Upcall { vcpu: handle.key(), span });
        });
        Ok(!domain.life().has_ended() && !self.services.scheduler.turn_is_over(self.index))
    }

    /// Enters the guest, and acts on its exit.
    fn enter(
        &mut self,
        domain: &Arc<Domain>,
        handle: &VcpuHandle,
        vcpu: &mut Vcpu,
    ) -> Result<Option<TurnEnd>, Failure> {
        let (services, pcpu, mode) = (&*self.services, self.index, vcpu.mode);
        let tracer = services.tracer();
        let entered = tracer.now();
        self.failed = true; // until it has come back
        let exit = self.pcpu.enter(&mut vcpu.context);
        services.scheduler.entered(pcpu);
        self.failed = exit.is_err();
        let exit = exit?;
        let mut left = 0;
        tracer.record(entered, |span| {
            left = span.end;
            Record::Guest { pcpu, mode, span }
        });
        let rip = vcpu.context.registers.rip;
        let next = act(services, domain, handle, vcpu, &exit);
        tracer.record(left, |span| Record::Exit { pcpu, vcpu: handle.key(), exit, mode, rip, span });
        next
    }
}
