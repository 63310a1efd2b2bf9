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
//! - A guest that never comes back by itself is kicked out, whatever it masks
//!   (`tests::a_guest_that_loops_does_not_stop_the_others`).
//! - Between [`Scheduler::entering`](crate::sched::Scheduler::entering) and the entry itself all is looked at once
//!   more: events, the end of the turn, the end of the domain. Whoever changes one of them stores it first and kicks
//!   then, so nothing is missed (`tests::an_event_for_a_running_vcpu_kicks_its_pcpu`).

use crate::domain::{Domain, End, ExitKind};
use crate::emulate::{Fault, exception};
use crate::error::Failure;
use crate::hypercall::{Outcome, Reply, Services, dispatch, resume};
use crate::machine::{Exit, Pcpu};
use crate::report::CrashReport;
use crate::sched::{Leave, Next};
use crate::vcpu::{Mode, Vcpu, VcpuHandle, bounce_trap, bounce_user_syscall, resume::prepare};
use pv_abi::trap::Vector;
use pv_abi::{EventPort, VcpuId};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Why a vCPU's turn ends.
#[derive(Debug)]
enum TurnEnd {
    /// Others shall run.
    Over,
    /// It sleeps until an upcall is pending.
    Blocked,
    /// It sleeps until one of these ports is pending.
    Polling(Vec<EventPort>),
    /// Its domain has ended.
    Ended,
}

/// What a pcpu did.
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

    #[cfg(test)]
    pub(crate) fn turn_for_test(&mut self) {
        self.once();
    }

    /// One turn of whoever's it is.
    fn once(&mut self) -> Did {
        self.services.scheduler.fire_timers();
        match self.services.scheduler.next(self.index) {
            Next::Run { domain, turn } => {
                self.turn(&domain, turn.vcpu.vcpu);
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
        if let Err(error) = self.load(domain, id) {
            crash(&self.services, domain, &handle.state().lock(), &error);
        }
        let mut vcpu = handle.state().lock();
        let clock = vcpu.clock.refresh(&*self.services.clock, &|| self.pcpu.guest_tsc());
        handle.info().publish(&clock);
        let started = self.services.clock.now();
        let end = self.run_vcpu(domain, handle, &mut vcpu);
        domain.statistics().ran(self.services.clock.now().saturating_sub(started));
        vcpu.clock.leave(self.pcpu.guest_tsc());
        let scheduler = &self.services.scheduler;
        let leave = |how: &Leave<'_>| scheduler.leave(self.index, handle.key(), how);
        match end {
            TurnEnd::Over => leave(&Leave::Ready),
            TurnEnd::Blocked => {
                leave(&Leave::Blocked(&|| handle.info().wants_upcall() || domain.life().has_ended()));
            }
            TurnEnd::Polling(ports) => leave(&Leave::Blocked(&|| {
                let is_pending = ports.iter().any(|&port| domain.shared().is_pending(port));
                is_pending || handle.info().wants_upcall() || domain.life().has_ended()
            })),
            TurnEnd::Ended => {
                vcpu.release(&self.services.mmu);
                self.loaded = None;
                leave(&Leave::Ended);
                self.services.ended.ring();
            }
        }
    }

    /// Saves the vCPU that ran before, if it is another.
    fn load(&mut self, domain: &Arc<Domain>, id: VcpuId) -> Result<(), Failure> {
        let previous = self.loaded.replace((domain.clone(), id));
        let Some((previous, old)) = previous else { return Ok(()) };
        let Some(handle) = previous.vcpu(old).filter(|_| previous.id() != domain.id() || old != id) else {
            return Ok(());
        };
        let mut vcpu = handle.state().lock();
        let saved = self.pcpu.save(&mut vcpu.context).map_err(Failure::from);
        match &saved {
            Ok(()) => self.services.scheduler.saved(handle.key()),
            Err(failure) => {
                self.failed = true;
                crash(&self.services, &previous, &vcpu, failure);
            }
        }
        saved
    }

    /// What cannot go on without this pcpu ends with it.
    fn give_up(&mut self) {
        let why = Failure::Crash(format!("the machine failed pcpu {}", self.index));
        for domain in self.services.scheduler.fail(self.index) {
            if let Some(vcpu) = domain.vcpus().first() {
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
        let services = self.services.clone();
        let scheduler = &services.scheduler;
        if domain.life().has_ended() {
            return Ok(Some(TurnEnd::Ended));
        }
        scheduler.fire_timers();
        if scheduler.turn_is_over(self.index) {
            return Ok(Some(TurnEnd::Over));
        }
        if let Some(reply) = resume(&services, domain, handle, vcpu) {
            return after(reply);
        }
        if handle.take_descriptors_stale() {
            vcpu.reload_descriptors(&services.mmu);
        }
        scheduler.entering(self.index);
        let prepared = prepare(vcpu, handle.info(), &services.mmu);
        let upcalls = prepared.as_ref().map_or(0, |prepared| prepared.upcalls);
        (0..upcalls).for_each(|_| domain.statistics().upcall());
        if prepared.is_err() || domain.life().has_ended() || scheduler.turn_is_over(self.index) {
            scheduler.entered(self.index);
            return prepared.map(|_| None);
        }
        let exit = self.pcpu.enter(&mut vcpu.context);
        scheduler.entered(self.index);
        self.failed |= exit.is_err();
        act(&services, domain, handle, vcpu, exit?)
    }
}

/// What an exit leads to.
fn act(
    services: &Services,
    domain: &Arc<Domain>,
    handle: &VcpuHandle,
    vcpu: &mut Vcpu,
    exit: Exit,
) -> Result<Option<TurnEnd>, Failure> {
    tracing::trace!(domain = %domain.id(), vcpu = vcpu.id.0, ?exit, "exit");
    let (info, mmu) = (handle.info(), &services.mmu);
    let count = |kind| domain.statistics().exit(kind);
    match (exit, vcpu.mode) {
        (Exit::Syscall, Mode::Kernel) => {
            count(ExitKind::Syscall);
            return after(dispatch(services, domain, handle, vcpu, true));
        }
        (Exit::Syscall, Mode::User) => {
            count(ExitKind::Syscall);
            bounce_user_syscall(vcpu, info, mmu)?;
        }
        (Exit::Doorbell, Mode::Kernel) => {
            count(ExitKind::Doorbell);
            return after(dispatch(services, domain, handle, vcpu, false));
        }
        (Exit::Doorbell, Mode::User) => {
            count(ExitKind::Doorbell);
            bounce_trap(vcpu, info, mmu, Vector::GENERAL_PROTECTION.0, 0, 0)?;
        }
        (Exit::Exception { vector, error_code, cr2 }, _) => {
            count(ExitKind::Exception);
            exception(services, vcpu, info, Fault { vector, error_code, cr2 })?;
        }
        (Exit::Kicked, _) => count(ExitKind::Kicked),
        (Exit::Unhandled { what }, _) => {
            count(ExitKind::Unhandled);
            tracing::debug!(domain = %domain.id(), what, "#GP for what the machine cannot carry out");
            bounce_trap(vcpu, info, mmu, Vector::GENERAL_PROTECTION.0, 0, 0)?;
        }
    }
    Ok(None)
}

/// What a hypercall's outcome means for the turn.
fn after(reply: Reply) -> Result<Option<TurnEnd>, Failure> {
    Ok(match reply? {
        Outcome::Done(_) | Outcome::Resumed | Outcome::Preempted => None,
        Outcome::Yielded => Some(TurnEnd::Over),
        Outcome::Blocked => Some(TurnEnd::Blocked),
        Outcome::Polling(ports) => Some(TurnEnd::Polling(ports)),
        Outcome::Ended => Some(TurnEnd::Ended),
    })
}

/// Ends a domain that cannot go on.
fn crash(services: &Services, domain: &Domain, vcpu: &Vcpu, failure: &Failure) {
    let report = CrashReport::new(failure, vcpu, &services.mmu, domain.symbols());
    tracing::error!(domain = %domain.id(), %failure, "domain crashed");
    domain.life().end(End::Crashed(Box::new(report)));
}
