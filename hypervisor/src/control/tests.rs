//! Domains' lives.

use super::*;
use crate::clock::{Clock, SECOND};
use crate::domain::ports::HostPort;
use crate::domain::{NoConsole, Stage};
use crate::event_channel::{alloc_unbound, bind_interdomain, bind_virq, connect, send, status};
use crate::sched::Next;
use crate::services::Services;
use crate::testing::{Guest, Threads, World, defects_told, syscall, wait_until};
use crate::timers::TimerKind;
use pv_abi::event_channel::{PortStatus, Virq};
use pv_abi::{DomId, EventPort, Mfn, Pfn, VcpuId};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

#[test]
fn a_bad_start_ends_the_domain() {
    let mut world = World::new();
    let guest = Guest::build(&world.services);
    let bad = StartState { root: guest.pages[0], ..guest.start_state() };
    assert!(start(&world.services, &guest.domain, &StartState { root: Mfn(u64::MAX), ..bad }).is_err());
    assert!(start(&world.services, &guest.domain, &guest.start_state()).is_err(), "it has ended");
    assert!(matches!(guest.domain.life().stage(), Stage::Dying(End::Destroyed)));
    world.check_end(vec![guest]);
}

#[test]
fn a_machine_without_frames_makes_no_domain() {
    let world = World::new();
    let config =
        || DomainConfig { name: "x".into(), vcpus: 1, maximum_pages: 1, console: Arc::new(NoConsole) };
    let mut domains = Vec::new();
    let failure = loop {
        match create(&world.services, config()) {
            Ok(domain) => domains.push(domain),
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure, Failure::Refused(_)), "{failure}");
    assert!(domains.len() > 400);
    assert!(domains.iter().all(|domain| domain.life().end(End::Destroyed)));
    teardown::reap_once(&world.services);
    assert!(create(&world.services, config()).is_ok());
}

#[test]
fn a_hypervisor_that_is_dropped_ends_everything() {
    let threads = Threads::new(2);
    let guests = [threads.guest(), threads.guest(), threads.guest()];
    guests.iter().for_each(|guest| threads.start(guest));
    drop(threads);
    for guest in guests {
        assert!(matches!(guest.domain.life().stage(), Stage::Dead(End::Destroyed)));
    }
}

/// A domain that computes on two pcpus beside another is paused again and again: it does nothing until it goes on, and
/// the other one does not notice.
#[test]
fn a_paused_domain_does_nothing_until_it_goes_on() {
    let threads = Threads::new(2);
    let guests = [threads.guest(), threads.guest()];
    let counts = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let count = |of: usize| counts[of].load(Ordering::SeqCst);
    for (guest, count) in guests.iter().zip(&counts) {
        let count = Arc::clone(count);
        threads.scripts.forever(guest.identity(), move |context| {
            count.fetch_add(1, Ordering::SeqCst);
            syscall(context, 29, &[0])
        });
        assert!(threads.hypervisor.pause(&guest.domain).is_err(), "it has not started");
        threads.start(guest);
    }
    for _ in 0..200 {
        threads.hypervisor.pause(&guests[0].domain).unwrap();
        let [before, beside] = [count(0), count(1)];
        wait_until(|| count(1) > beside + 10);
        assert_eq!(count(0), before);
        threads.hypervisor.unpause(&guests[0].domain).unwrap();
        wait_until(|| count(0) > before);
    }
    threads.hypervisor.pause(&guests[0].domain).unwrap();
    guests.iter().for_each(|guest| threads.hypervisor.destroy(&guest.domain));
    guests.iter().for_each(|guest| drop(threads.hypervisor.wait(&guest.domain)));
    assert!(threads.hypervisor.pause(&guests[0].domain).is_err(), "it has ended");
    assert!(threads.hypervisor.unpause(&guests[0].domain).is_err());
}

#[test]
fn a_domain_that_nobody_can_run_returns_its_frames() {
    let mut world = World::new();
    let guest = world.guest();
    let lost = world.services.scheduler.fail(0);
    lost.iter().for_each(|(domain, _)| assert!(domain.life().end(End::Destroyed)));
    world.check_end(vec![guest]);
}

#[test]
fn a_dead_domains_peers_are_left_unbound() {
    let mut world = World::new();
    let (dying, peer) = (world.guest(), world.guest());
    let far = alloc_unbound(&peer.domain, dying.domain.id()).unwrap();
    bind_interdomain(&world.services.domains, &dying.domain, peer.domain.id(), far).unwrap();
    world.end(vec![dying]);
    assert_eq!(status(&peer.domain, far).unwrap().status, PortStatus::UNBOUND);
    world.check_end(vec![peer]);
}

/// What the host's end of a port finds when the port is closed.
struct Closing {
    services: Arc<Services>,
    dying: DomId,
    page: Mfn,
    still_its_own: OnceLock<bool>,
}

impl HostPort for Closing {
    fn notified(&self) {}

    fn closed(&self) {
        let _ = self.still_its_own.set(self.services.mmu.owner(self.page) == Some(self.dying));
    }
}

/// XSA class "event channels". An event is a write into the domain's shared page: were a port still open when that page
/// is given back, whoever has it next would find the event in his memory.
#[test]
fn the_ports_of_the_dying_are_closed_before_their_frames_are_given_back() {
    let mut world = World::new();
    let dying = world.guest();
    let port = alloc_unbound(&dying.domain, DomId::HOST).unwrap();
    let closing = Arc::new(Closing {
        services: Arc::clone(&world.services),
        dying: dying.domain.id(),
        page: dying.domain.shared().frame(),
        still_its_own: OnceLock::new(),
    });
    let channel = connect(&dying.domain, port, closing.clone()).unwrap();
    let (domain, page) = (Arc::clone(&dying.domain), closing.page);
    world.end(vec![dying]);
    assert_eq!(closing.still_its_own.get(), Some(&true));
    assert_eq!(world.services.mmu.owner(page), None);
    let before = world.services.mmu.memory().load_u64(page, 2048);
    assert!(!channel.notify(), "there is nobody any more");
    assert_eq!(world.services.mmu.memory().load_u64(page, 2048), before);
    drop((channel, domain));
    world.check_end(Vec::new());
}

/// A host's end of a port that panics.
struct Unlucky;

impl HostPort for Unlucky {
    fn notified(&self) {}

    fn closed(&self) {
        panic!("on purpose");
    }
}

#[test]
fn a_teardown_that_panics_is_told_as_a_defect_and_harms_no_other() {
    let mut world = World::new();
    let (dying, other) = (world.guest(), world.guest());
    let port = alloc_unbound(&dying.domain, DomId::HOST).unwrap();
    let _channel = connect(&dying.domain, port, Arc::new(Unlucky)).unwrap();
    let domain = Arc::clone(&dying.domain);
    assert_eq!(defects_told(|| world.destroy(&[dying])), ["frames of a dead domain are lost"]);
    assert!(matches!(domain.life().stage(), Stage::Dead(_)));
    world.check_end(vec![other]);
}

#[test]
fn a_thread_that_panics_is_told_as_a_defect() {
    let threads = Threads::new(1);
    threads.hypervisor.spawn("unlucky".into(), || panic!("on purpose")).unwrap();
    let told = defects_told(|| threads.hypervisor.shutdown());
    assert_eq!(told, ["a thread of the hypervisor panicked"]);
}

/// From the last number on, the first ones come up again.
fn count_round(services: &Services) {
    let last = Some(DomId(DomId::FIRST_RESERVED.0 - 1));
    while services.domains.next_id(|_| true) != last {}
}

/// A number that comes up again belongs to another domain, to which nothing of the first may come. Numbers come up
/// late, so the test brings it up.
/// The alarm's thread looks at timers and at the ends of slices itself, whatever it was told before.
#[test]
fn the_alarm_is_set_to_the_next_timer_or_slice() {
    let world = World::new();
    let guest = world.guest();
    let services = &world.services;
    let key = guest.domain.vcpus()[0].key();
    let heeded = |expected| {
        services.alarm.sleeps_until(1);
        let sleeper = Arc::clone(services);
        let thread = thread::spawn(move || sleeper.heed_alarm());
        wait_until(|| services.alarm.at() == expected);
        services.alarm.no_later_than(0);
        assert!(thread.join().unwrap());
    };
    heeded(u64::MAX);
    services.timers.set(key, TimerKind::Singleshot, Some(world.now() + 7 * SECOND));
    heeded(world.now() + 7 * SECOND);
    assert!(matches!(services.scheduler.next(0), Next::Run { .. }));
    heeded(world.now() + SECOND / 2);
}

#[test]
fn a_reused_domid_inherits_nothing() {
    let mut world = World::new();
    let keeper = world.guest();
    let first = world.guest();
    let id = first.domain.id();
    let far = alloc_unbound(&keeper.domain, id).unwrap();
    bind_interdomain(&world.services.domains, &first.domain, keeper.domain.id(), far).unwrap();
    bind_virq(&first.domain, Virq::TIMER, VcpuId(0)).unwrap();
    first.domain.shared().set_pending(EventPort(3));
    first.domain.vcpus()[0].info().set_masked(false);
    first.domain.vcpus()[0].info().mark_pending(0);
    first.domain.set_exit_status(9);
    let (key, identity) = (first.domain.vcpus()[0].key(), first.identity());
    world.services.timers.set(key, TimerKind::Singleshot, Some(world.clock.now() + SECOND));
    let (own_page, held) = (first.pages[3], first.pages[4]);
    for mfn in [own_page, held] {
        world.services.mmu.memory().write(mfn, 0, b"a secret").unwrap();
    }
    let lent = world.services.mmu.hold(id, held, true).unwrap();
    world.destroy(&[first]);

    // While somebody still has a frame of it, the number is not given to anybody.
    count_round(&world.services);
    let other = world.guest();
    assert_ne!(other.domain.id(), id);
    world.services.mmu.release(lent);

    count_round(&world.services);
    let second = world.guest();
    assert_eq!(second.domain.id(), id);
    // A pcpu that ran nothing else since would take the same identity for the dead vCPU, and go on on its root.
    assert_eq!(second.domain.vcpus()[0].key(), key);
    assert_ne!(second.identity(), identity);
    let (domain, memory) = (&second.domain, world.services.mmu.memory());
    assert!(domain.ports().lock().is_empty());
    assert_eq!(send(&world.services.domains, &keeper.domain, far), Ok(()), "it goes nowhere");
    assert!(!domain.shared().is_pending(EventPort(3)) && !domain.shared().is_pending(EventPort(1)));
    let info = domain.vcpus()[0].info();
    assert!(info.masked() && !info.wants_upcall());
    assert_eq!((domain.exit_status(), domain.statistics().snapshot().hypercalls.len()), (0, 0));
    bind_virq(domain, Virq::TIMER, VcpuId(0)).unwrap();
    world.clock.advance(2 * SECOND);
    world.services.fire_timers();
    assert!(!domain.shared().is_pending(EventPort(1)), "a timer of the first one");
    assert_eq!(world.services.mmu.owner(held), Some(id), "frames that came back last are taken first");
    for mfn in [own_page, held] {
        let mut bytes = [0; 8];
        memory.read(mfn, 0, &mut bytes).unwrap();
        let is_its_own = world.services.mmu.owner(mfn) == Some(id);
        assert!(!is_its_own || &bytes != b"a secret", "{mfn} is not scrubbed");
        assert!(is_its_own || world.services.mmu.pfn(mfn) == Pfn::INVALID);
        assert_eq!(
            world.services.mmu.hold(id, mfn, false).map(|held| world.services.mmu.release(held)).is_ok(),
            is_its_own
        );
    }
    world.check_end(vec![keeper, other, second]);
}
