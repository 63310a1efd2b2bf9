//! Doorbells, on a machine whose bells the test rings.

use super::*;
use crate::machine::Doorbells;
use crate::machine::fake::Sabotage;
use crate::machine::{DOORBELL_ADDRESS, DOORBELLS_PER_PAGE};
use crate::testing::{Guest, World, defects_told, page};
use backend_interface::bell::Bell;
use pv_abi::extension::Doorbell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// The extension's hypercall, and its operation.
const EXTENSION: u64 = 127;
const DOORBELL: u64 = 1;

/// A port of the guest's that the host is connected to, and what it rings there.
fn connected(guest: &Guest) -> (EventPort, HostChannel, Arc<Bell>) {
    let port = alloc_unbound(&guest.domain, DomId::HOST).unwrap();
    let (channel, bell) = connected_to(guest, port);
    (port, channel, bell)
}

fn connected_to(guest: &Guest, port: EventPort) -> (HostChannel, Arc<Bell>) {
    let bell = Arc::new(Bell::with_descriptor().unwrap());
    let channel = connect(&guest.domain, port, bell.clone()).unwrap();
    assert!(heard(&bell), "a new connection starts with an event");
    (channel, bell)
}

/// Whether the bell was rung since the last time.
fn heard(bell: &Bell) -> bool {
    bell.listen_for(Duration::ZERO)
}

/// The guest asks for a doorbell.
fn ask(world: &World, guest: &Guest, port: EventPort) -> Result<Doorbell, Errno> {
    world.poke(guest, page(1), &Doorbell { port, value: u32::MAX, address: 0 });
    world.call(guest, EXTENSION, &[DOORBELL, page(1)]).map(|_| world.peek(guest, page(1)))
}

/// The guest stores `value` to its doorbell page. Returns whether a doorbell hangs there.
fn ring(world: &World, guest: &Guest, value: u32) -> bool {
    let page = world.services.mmu.doorbell_page(guest.domain.id()).unwrap();
    world.machine.doorbells.ring(page, value)
}

#[test]
fn each_doorbell_rings_one_back_end() {
    let world = World::new();
    let guests = [world.guest(), world.guest()];
    let ends = guests.each_ref().map(|guest| [connected(guest), connected(guest)]);
    for (guest, ends) in guests.iter().zip(&ends) {
        for (port, ..) in ends {
            assert!(!ring(&world, guest, port.0), "nobody has asked");
            let doorbell = ask(&world, guest, *port).unwrap();
            assert_eq!(doorbell, Doorbell { port: *port, value: port.0, address: DOORBELL_ADDRESS });
            assert_eq!(ask(&world, guest, *port), Ok(doorbell), "it is told of it again");
        }
    }
    assert_eq!(world.machine.doorbells.count(), 4);
    let all = || ends.iter().flatten();
    for (guest, own) in guests.iter().zip(&ends) {
        for (port, _, bell) in own {
            assert!(ring(&world, guest, port.0) && heard(bell));
            assert!(all().all(|(_, _, other)| !heard(other)), "it alone");
            send(&world.services.domains, &guest.domain, *port).unwrap();
            assert!(heard(bell), "by hypercall as before");
        }
        assert!(!ring(&world, guest, 0) && !ring(&world, guest, 9));
    }
}

#[test]
fn a_doorbell_goes_with_the_connection() {
    let mut world = World::new();
    let guest = world.guest();
    let (port, channel, bell) = connected(&guest);
    ask(&world, &guest, port).unwrap();
    drop(channel);
    assert!(!ring(&world, &guest, port.0) && !heard(&bell), "the host has let go");
    assert_eq!(ask(&world, &guest, port), Err(Errno::EINVAL));

    let (channel, second) = connected_to(&guest, port);
    assert!(!ring(&world, &guest, port.0), "a new connection has none before it is asked for");
    ask(&world, &guest, port).unwrap();
    assert!(ring(&world, &guest, port.0) && heard(&second) && !heard(&bell));
    close(&world.services.domains, &guest.domain, port).unwrap();
    assert!(!ring(&world, &guest, port.0) && !heard(&second), "the guest has closed its port");

    let (again, third_channel, third) = connected(&guest);
    assert_eq!(again, port, "the number is used again");
    drop(channel);
    ask(&world, &guest, port).unwrap();
    assert!(ring(&world, &guest, port.0) && heard(&third) && !heard(&second));
    world.check_end(vec![guest]);
    assert_eq!(world.machine.doorbells.count(), 0, "the domain has died");
    drop(third_channel);
}

/// Between the two, the number may be another port's.
#[test]
fn a_doorbell_is_down_before_its_ports_number_is_free() {
    let world = World::new();
    let guest = world.guest();
    let (port, _channel, bell) = connected(&guest);
    ask(&world, &guest, port).unwrap();
    let removed = guest.domain.ports().lock().remove(port).unwrap();
    assert!(!ring(&world, &guest, port.0) && !heard(&bell));
    drop(removed);
}

#[test]
fn what_is_not_connected_to_a_back_end_has_no_doorbell() {
    let world = World::new();
    let (guest, other) = (world.guest(), world.guest());
    let domains = &world.services.domains;
    let far = alloc_unbound(&other.domain, guest.domain.id()).unwrap();
    let unfit = [
        bind_interdomain(domains, &guest.domain, other.domain.id(), far).unwrap(),
        alloc_unbound(&guest.domain, DomId::HOST).unwrap(),
        bind_ipi(&guest.domain, VcpuId(0)).unwrap(),
        bind_virq(&guest.domain, Virq::TIMER, VcpuId(0)).unwrap(),
        EventPort(0),
        EventPort(77),
        EventPort(4096),
        EventPort(u32::MAX),
    ];
    for port in unfit {
        assert_eq!(ask(&world, &guest, port), Err(Errno::EINVAL), "{port:?}");
    }
    let deaf = alloc_unbound(&guest.domain, DomId::HOST).unwrap();
    let _channel = connect(&guest.domain, deaf, Arc::new(Bell::default())).unwrap();
    assert_eq!(ask(&world, &guest, deaf), Err(Errno::EOPNOTSUPP));
    for unmapped in [0, page(1) - 4096 * 2, u64::MAX] {
        assert_eq!(world.call(&guest, EXTENSION, &[DOORBELL, unmapped]), Err(Errno::EFAULT));
    }
    assert_eq!(world.machine.doorbells.count(), 0);
}

#[test]
fn a_domain_has_so_many_doorbells_and_no_more() {
    let world = World::new();
    let guest = world.guest();
    let mut ends: Vec<_> = (0..DOORBELLS_PER_PAGE + 3).map(|_| connected(&guest)).collect();
    for (nth, (port, ..)) in ends.iter().enumerate() {
        let expected = if nth < DOORBELLS_PER_PAGE { Ok(port.0) } else { Err(Errno::ENOSPC) };
        assert_eq!(ask(&world, &guest, *port).map(|doorbell| doorbell.value), expected, "{nth}");
    }
    assert_eq!(world.machine.doorbells.count(), DOORBELLS_PER_PAGE);
    drop(ends.remove(0));
    let (last, ..) = ends.last().unwrap();
    assert!(ask(&world, &guest, *last).is_ok(), "there is room again");
}

/// A machine with two pages: the third domain has none, and gets one when another has gone.
#[test]
fn a_domain_without_a_page_has_no_doorbells() {
    let mut world = World::new();
    let (first, second) = (world.guest(), world.guest());
    let third = world.guest();
    let (port, ..) = connected(&third);
    assert_eq!(ask(&world, &third, port), Err(Errno::ENODEV));
    world.end(vec![first]);
    let fourth = world.guest();
    let (port, _channel, bell) = connected(&fourth);
    ask(&world, &fourth, port).unwrap();
    assert!(ring(&world, &fourth, port.0) && heard(&bell));
    world.check_end(vec![second, third, fourth]);
}

/// Its roots may still be somewhere, and show the page.
#[test]
fn the_page_of_a_domain_that_cannot_be_taken_apart_is_nobodys() {
    let mut world = World::new();
    let (first, _second) = (world.guest(), world.guest());
    world.machine.translations.sabotage(Sabotage::Broken);
    let told = defects_told(|| world.destroy(&[first]));
    assert_eq!(told, ["frames of a dead domain are lost"]);
    world.machine.translations.sabotage(Sabotage::None);
    let third = world.guest();
    assert_eq!(world.services.mmu.doorbell_page(third.domain.id()), None);
}

#[test]
fn a_doorbell_that_cannot_be_taken_down_is_told_as_a_defect() {
    let mut world = World::new();
    let guest = world.guest();
    let (port, channel, _bell) = connected(&guest);
    ask(&world, &guest, port).unwrap();
    let page = world.services.mmu.doorbell_page(guest.domain.id()).unwrap();
    // Behind its back, so that its own end fails.
    world.machine.doorbells.take_down(page, port.0, std::io::stdin().as_fd()).unwrap();
    assert_eq!(defects_told(|| drop(channel)), ["a doorbell stays where it hangs"]);
    world.check_end(vec![guest]);
}
