//! What is behind hypercalls and instructions that trap: page tables, domains, the scheduler, and what the machine offers.

use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::cpuid::Answers;
use crate::domain::{Domains, Wake};
use crate::event_channel::raise_virq;
use crate::machine::cpuid::{Asker, MachineCpuid};
use crate::machine::{Doorbells, Kick};
use crate::paging::Mmu;
use crate::sched::{FairShare, Scheduler};
use crate::timers::{TimerKind, Timers};
use crate::trace::{Trace, Tracer};
use crate::vcpu::Vcpu;
use backend_interface::bell::Bell;
use pv_abi::event_channel::Virq;
use std::sync::Arc;

/// Steps of work on page tables between two looks at events and at the time: about a millisecond.
pub const STEPS: u32 = 4096;

/// What hypercalls and emulated instructions work with, the same for all domains.
#[derive(Debug)]
pub struct Services {
    /// Page tables and frames.
    pub mmu: Arc<Mmu>,
    /// What guests ring without a hypercall.
    pub doorbells: Arc<dyn Doorbells>,
    /// All domains but the host domain.
    pub domains: Domains,
    /// The clock of system time.
    pub clock: Arc<dyn Clock>,
    /// Which vCPU runs on which pcpu, and who sleeps.
    pub scheduler: Arc<Scheduler>,
    /// The timers of all vCPUs.
    pub timers: Timers,
    /// When the next timer is due, and the next slice is over.
    pub alarm: Arc<Alarm>,
    /// What `cpuid` answers to guests.
    pub cpuid: Arc<MachineCpuid>,
    /// Whether the machine raises #NM at the first use of the FPU while CR0.TS is set. Where it does not, TS stays clear.
    pub raises_nm: bool,
    /// Rung when a domain may have ended.
    pub ended: Bell,
    /// Where it is recorded what happens.
    pub trace: Trace,
}

impl Services {
    /// Those of a machine whose pcpus have these kicks.
    pub fn new(
        mmu: Arc<Mmu>,
        doorbells: Arc<dyn Doorbells>,
        kicks: Vec<Arc<dyn Kick>>,
        clock: Arc<dyn Clock>,
        cpuid: Arc<MachineCpuid>,
        raises_nm: bool,
    ) -> Self {
        let policy = Box::new(FairShare::default());
        let alarm = Arc::new(Alarm::new(clock.clone()));
        let scheduler = Arc::new(Scheduler::new(clock.clone(), alarm.clone(), policy, kicks));
        Self {
            mmu,
            doorbells,
            domains: Domains::default(),
            clock,
            scheduler,
            timers: Timers::new(alarm.clone()),
            alarm,
            cpuid,
            raises_nm,
            ended: Bell::default(),
            trace: Trace::default(),
        }
    }

    /// Records what happens, by system time.
    pub fn tracer(&self) -> Tracer<'_> {
        self.trace.by(&*self.clock)
    }

    /// Does what the timers that are due are set for. One that is taken while its domain is taken apart may tell whoever gets
    /// the number next: an upcall or a wake-up without a reason, which a guest expects at any time.
    pub fn fire_timers(&self) {
        let now = self.clock.now();
        while let Some((vcpu, kind)) = self.timers.take_due(now) {
            match kind {
                TimerKind::Singleshot | TimerKind::Periodic => {
                    if let Some(domain) = self.domains.get(vcpu.domain) {
                        raise_virq(&domain, Virq::TIMER, vcpu.vcpu);
                    }
                }
                TimerKind::Poll => self.scheduler.wake(vcpu),
            }
        }
    }

    /// Sleeps until a timer is due or a slice is over, and does what follows. False when the machine stops.
    pub fn heed_alarm(&self) -> bool {
        let goes_on = self.alarm.sleep(|| self.timers.next().min(self.scheduler.next_kick()));
        self.scheduler.kick_overdue();
        self.fire_timers();
        goes_on
    }

    /// What `cpuid` says to a vCPU.
    pub fn cpuid_of(&self, vcpu: &Vcpu) -> Answers<'_> {
        Answers::new(&self.cpuid, Asker { vcpu: vcpu.id.0, of: vcpu.domain_vcpus, xcr0: vcpu.context.xcr0 })
    }
}
