//! Pcpus that fail, are beside another, or have a clock that runs ahead.

use super::*;

/// A pcpu whose TSC runs faster than it should.
struct Fast(FakePcpu);

impl Pcpu for Fast {
    fn run(&mut self, context: crate::machine::Sanitised<'_>) -> Result<Exit, MachineError> {
        self.0.run(context)
    }

    fn save(&mut self, context: &mut crate::machine::Context) -> Result<(), MachineError> {
        self.0.save(context)
    }

    fn guest_tsc(&self) -> u64 {
        self.0.guest_tsc() + self.0.guest_tsc() / 2000
    }
}

#[test]
fn what_a_guest_may_have_read_of_its_clock_is_a_floor() {
    let mut world = World::new();
    let guest = world.guest();
    let pcpu = FakePcpu::new(0, world.scripts.clone(), world.clock.clone());
    let mut pcpu = PcpuLoop::new(0, Box::new(Fast(pcpu)), world.services.clone());
    let published = || -> VcpuTimeInfo {
        let mut bytes = [0; 32];
        world.machine.memory.read(guest.domain.shared().frame(), 32, &mut bytes).unwrap();
        zerocopy::FromBytes::read_from_bytes(&bytes).unwrap()
    };
    pcpu.once();
    let clock = world.clock.clone();
    world.script(&guest, move |context| {
        clock.advance(100 * MILLISECOND);
        syscall(context, 29, &[0])
    });
    pcpu.once();
    let tsc = pcpu.pcpu.guest_tsc();
    let read = published().system_time_at(tsc);
    assert!(read > world.now(), "it is ahead");
    pcpu.once();
    assert!(published().system_time_at(tsc) >= read);
    drop(pcpu);
    world.check_end(vec![guest]);
}

/// A pcpu of a machine that does not work.
struct Broken;

impl Pcpu for Broken {
    fn run(&mut self, _context: crate::machine::Sanitised<'_>) -> Result<Exit, MachineError> {
        Err(MachineError::new("KVM_RUN", std::io::Error::other("broken")))
    }

    fn save(&mut self, _context: &mut crate::machine::Context) -> Result<(), MachineError> {
        Ok(())
    }

    fn guest_tsc(&self) -> u64 {
        0
    }
}

#[test]
fn a_failed_pcpu_ends_what_it_ran_and_stops() {
    let mut world = World::with_pcpus(2);
    let (a, b) = (world.guest(), world.guest());
    let mut broken = PcpuLoop::new(0, Box::new(Broken), world.services.clone());
    assert_eq!((broken.once(), broken.once()), (Did::Turn, Did::Stop));
    let Stage::Dying(End::HostFailed(report)) = a.domain.life().stage() else { panic!("not the host") };
    assert_eq!(report.reason, "KVM_RUN: broken");
    let text = report.to_string();
    assert!(
        text.starts_with("d1 vCPU 0 cannot go on in Kernel mode: the host failed: KVM_RUN: broken\n"),
        "{text}"
    );
    world.turns(1, 3);
    assert!(!b.domain.life().has_ended(), "the other pcpu goes on");
    world.pcpus.remove(0);
    world.check_end(vec![a, b]);
}

/// A pcpu beside another, which fires the timers while the vCPU of this one is on its way to sleep.
struct BesideAnother {
    pcpu: FakePcpu,
    services: Arc<Services>,
    clock: Arc<FakeClock>,
}

impl Pcpu for BesideAnother {
    fn run(&mut self, context: crate::machine::Sanitised<'_>) -> Result<Exit, MachineError> {
        self.pcpu.run(context)
    }

    fn save(&mut self, context: &mut crate::machine::Context) -> Result<(), MachineError> {
        self.pcpu.save(context)
    }

    fn guest_tsc(&self) -> u64 {
        if self.services.timers.next() != u64::MAX {
            self.clock.advance(2 * MILLISECOND);
            self.services.fire_timers();
        }
        self.pcpu.guest_tsc()
    }
}

/// The timer wakes nobody then, and there is none any more.
#[test]
fn a_poll_whose_time_is_over_before_it_sleeps_does_not_sleep() {
    let mut world = World::new();
    let guest = world.guest();
    let (services, clock) = (world.services.clone(), world.clock.clone());
    let pcpu = FakePcpu::new(0, world.scripts.clone(), clock.clone());
    let mut pcpu =
        PcpuLoop::new(0, Box::new(BesideAnother { pcpu, services, clock }), world.services.clone());
    let until = world.now() + MILLISECOND;
    world.poke(&guest, BASE, &Poll { ports: 0, nr_ports: 0, padding: 0, timeout: until });
    world.script(&guest, |context| syscall(context, 29, &[SchedOp::POLL.0, BASE]));
    assert_eq!((pcpu.once(), world.services.timers.next()), (Did::Turn, u64::MAX), "it polls");
    assert_eq!((pcpu.once(), world.services.timers.next()), (Did::Turn, u64::MAX), "it goes on");
    drop(pcpu);
    world.check_end(vec![guest]);
}

/// A pcpu of a machine that gives no registers back.
struct Keeps(FakePcpu);

impl Pcpu for Keeps {
    fn run(&mut self, context: crate::machine::Sanitised<'_>) -> Result<Exit, MachineError> {
        self.0.run(context)
    }

    fn save(&mut self, _context: &mut crate::machine::Context) -> Result<(), MachineError> {
        Err(MachineError::new("KVM_GET_REGS", std::io::Error::other("broken")))
    }

    fn guest_tsc(&self) -> u64 {
        self.0.guest_tsc()
    }
}

/// Nobody goes on with registers that are not the vCPU's, and whoever waits for the pause is told.
#[test]
fn a_pcpu_that_cannot_save_a_paused_vcpu_ends_its_domain_and_stops() {
    let mut world = World::with_pcpus(2);
    let (a, b) = (world.guest(), world.guest());
    let pcpu = FakePcpu::new(0, world.scripts.clone(), world.clock.clone());
    let mut keeps = PcpuLoop::new(0, Box::new(Keeps(pcpu)), world.services.clone());
    assert_eq!(keeps.once(), Did::Turn);
    let (domain, services) = (Arc::clone(&a.domain), Arc::clone(&world.services));
    assert!(domain.life().pause());
    let (answer, answered) = channel();
    std::thread::spawn(move || answer.send(services.scheduler.pause(&domain)));
    // Its next turn would be the other's, before which it saves as well: it saves because of the pause.
    let vcpu = a.domain.vcpus()[0].key();
    wait_until(|| world.services.scheduler.account(vcpu).info().state == Runstate::OFFLINE);
    assert_eq!((keeps.once(), keeps.once()), (Did::Turn, Did::Stop));
    let Stage::Dying(End::HostFailed(report)) = a.domain.life().stage() else { panic!("not the host") };
    assert_eq!(report.reason, "KVM_GET_REGS: broken");
    world.services.scheduler.evict(a.domain.id()); // as the reaper does
    assert_eq!(answered.recv_timeout(LIMIT), Ok(false));
    world.turns(1, 3);
    assert!(!b.domain.life().has_ended(), "the other pcpu goes on");
    world.pcpus.remove(0);
    world.check_end(vec![a, b]);
}
