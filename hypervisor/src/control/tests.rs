//! Domains' lives.

use super::*;
use crate::domain::{NoConsole, Stage};
use crate::event_channel::{alloc_unbound, bind_interdomain, status};
use crate::testing::{Guest, Threads, World};
use pv_abi::Mfn;
use pv_abi::event_channel::PortStatus;

#[test]
fn a_bad_start_ends_the_domain() {
    let mut world = World::new();
    let guest = Guest::build(&world.services);
    let bad = StartState { root: guest.pages[0], ..guest.start_state() };
    assert!(start(&world.services, &guest.domain, &StartState { root: Mfn(u64::MAX), ..bad }).is_err());
    assert!(start(&world.services, &guest.domain, &guest.start_state()).is_err(), "it has ended");
    assert!(matches!(guest.domain.life().stage(), Stage::Ending(End::Destroyed)));
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
        assert!(matches!(guest.domain.life().stage(), Stage::Gone(End::Destroyed)));
    }
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
