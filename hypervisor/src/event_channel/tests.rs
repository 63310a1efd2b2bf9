//! Event channels between domains, and what a vCPU sees of them.

use super::*;
use crate::testing::{Guest, World};
use pv_abi::event_channel::PortStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

fn pair(world: &World) -> (Guest, Guest, EventPort, EventPort) {
    let (a, b) = (world.guest(), world.guest());
    let far = alloc_unbound(&b.domain, a.domain.id()).unwrap();
    let near = bind_interdomain(&world.services.domains, &a.domain, b.domain.id(), far).unwrap();
    (a, b, near, far)
}

fn state(guest: &Guest, port: EventPort) -> PortStatus {
    status(&guest.domain, port).unwrap().status
}

fn info(guest: &Guest) -> &crate::vcpu::InfoPage {
    guest.domain.vcpus()[0].info()
}

/// Forgets that anything is pending, as a guest does that has looked.
fn look(world: &World, guest: &Guest, port: EventPort) {
    guest.domain.shared().clear_pending(port);
    let page = guest.domain.shared().frame();
    world.machine.memory.swap_u8(page, 0, 0).unwrap();
    world.machine.memory.store_u64(page, 8, 0).unwrap();
}

#[test]
fn events_go_both_ways() {
    let world = World::new();
    let (a, b, near, far) = pair(&world);
    assert!(a.domain.shared().is_pending(near), "a new connection starts with an event");
    send(&world.services.domains, &a.domain, near).unwrap();
    assert!(b.domain.shared().is_pending(far) && info(&b).pending());
    look(&world, &a, near);
    send(&world.services.domains, &b.domain, far).unwrap();
    assert!(a.domain.shared().is_pending(near) && info(&a).pending());
    let found = status(&a.domain, near).unwrap();
    assert_eq!(found.status, PortStatus::INTERDOMAIN);
    assert_eq!((found.detail0, found.detail1), (u32::from(b.domain.id().0), far.0));
}

#[test]
fn pending_ports_latch() {
    let world = World::new();
    let (a, b, near, far) = pair(&world);
    let page = b.domain.shared().frame();
    send(&world.services.domains, &a.domain, near).unwrap();
    world.machine.memory.swap_u8(page, 0, 0).unwrap();
    send(&world.services.domains, &a.domain, near).unwrap();
    assert!(!info(&b).pending(), "pending already: notifies nothing");

    look(&world, &b, far);
    let mask_word = 2560 + far.0 as usize / 64 * 8;
    world.machine.memory.fetch_or_u64(page, mask_word, 1 << (far.0 % 64)).unwrap();
    send(&world.services.domains, &a.domain, near).unwrap();
    assert!(b.domain.shared().is_pending(far) && !info(&b).pending(), "masked: latches");
    unmask(&b.domain, far).unwrap();
    assert!(info(&b).pending(), "unmasking a pending port notifies");
    look(&world, &b, far);
    world.machine.memory.fetch_or_u64(page, mask_word, 1 << (far.0 % 64)).unwrap();
    unmask(&b.domain, far).unwrap();
    assert!(!info(&b).pending(), "nothing was pending");
}

#[test]
fn closing_one_end_leaves_the_other_unbound() {
    let world = World::new();
    let (a, b, near, far) = pair(&world);
    let domains = &world.services.domains;
    close(domains, &a.domain, near).unwrap();
    assert_eq!((state(&a, near), state(&b, far)), (PortStatus::CLOSED, PortStatus::UNBOUND));
    assert!(!a.domain.shared().is_pending(near), "nothing is left for who gets the number next");
    let again = bind_interdomain(domains, &a.domain, b.domain.id(), far).unwrap();
    close_all(domains, &b.domain);
    assert_eq!((state(&a, again), state(&b, far)), (PortStatus::UNBOUND, PortStatus::CLOSED));
    assert_eq!(alloc_unbound(&b.domain, a.domain.id()).unwrap_err().errno, Errno::ESRCH, "it is dying");
}

#[test]
fn an_event_to_a_closed_port_goes_nowhere() {
    let world = World::new();
    let (a, b, near, far) = pair(&world);
    let domains = &world.services.domains;
    close(domains, &b.domain, far).unwrap();
    let other = bind_ipi(&b.domain, VcpuId(0)).unwrap();
    assert_eq!(other, far, "the number is used again");
    send(domains, &a.domain, near).unwrap();
    assert!(!b.domain.shared().is_pending(other));
    raise_peer(&b.domain, far, a.domain.id(), near);
    assert!(!b.domain.shared().is_pending(other), "also where it was on its way meanwhile");
}

/// The numbers are the same as before, and the domain is not; or the other way round.
#[test]
fn an_event_to_a_reconnected_port_goes_nowhere() {
    let world = World::new();
    let (a, b, near, far) = pair(&world);
    let c = world.guest();
    let domains = &world.services.domains;
    close(domains, &b.domain, far).unwrap();
    assert_eq!(alloc_unbound(&b.domain, c.domain.id()), Ok(far));
    assert_eq!(bind_interdomain(domains, &c.domain, b.domain.id(), far), Ok(near));
    raise_peer(&b.domain, far, a.domain.id(), near);
    assert!(!b.domain.shared().is_pending(far), "another domain's");
    raise_peer(&b.domain, far, c.domain.id(), EventPort(near.0 + 1));
    assert!(!b.domain.shared().is_pending(far), "another port of that domain's");
    raise_peer(&b.domain, far, c.domain.id(), near);
    assert!(b.domain.shared().is_pending(far));
}

#[test]
fn a_channel_within_one_domain_works() {
    let world = World::new();
    let guest = world.guest();
    let domains = &world.services.domains;
    let far = alloc_unbound(&guest.domain, DomId::SELF).unwrap();
    let near = bind_interdomain(domains, &guest.domain, DomId::SELF, far).unwrap();
    send(domains, &guest.domain, near).unwrap();
    assert!(guest.domain.shared().is_pending(far));
    close(domains, &guest.domain, near).unwrap();
    assert_eq!(state(&guest, far), PortStatus::UNBOUND);
}

#[test]
fn only_the_domain_that_was_meant_can_connect() {
    let world = World::new();
    let (a, b, _, far) = pair(&world);
    let c = world.guest();
    let domains = &world.services.domains;
    let bind = |guest: &Guest, remote, port| {
        bind_interdomain(domains, &guest.domain, remote, EventPort(port)).unwrap_err().errno
    };
    assert_eq!(bind(&a, b.domain.id(), far.0), Errno::EINVAL, "connected already");
    let free = alloc_unbound(&b.domain, a.domain.id()).unwrap();
    assert_eq!(bind(&c, b.domain.id(), free.0), Errno::EINVAL, "meant for another");
    assert_eq!(bind(&a, DomId(777), 1), Errno::ESRCH);
    assert_eq!(bind(&a, DomId::HOST, 1), Errno::EINVAL);
    for port in [0, 4096, u32::MAX, 999] {
        assert_eq!(bind(&a, b.domain.id(), port), Errno::EINVAL);
    }
}

#[test]
fn virtual_interrupts_and_interrupts_between_vcpus() {
    let world = World::new();
    let guest = world.guest();
    let domain = &guest.domain;
    let timer = bind_virq(domain, Virq::TIMER, VcpuId(0)).unwrap();
    assert_eq!(bind_virq(domain, Virq::TIMER, VcpuId(0)).unwrap_err().errno, Errno::EEXIST);
    assert_eq!(bind_virq(domain, Virq(24), VcpuId(0)).unwrap_err().errno, Errno::EINVAL);
    assert_eq!(bind_virq(domain, Virq::CONSOLE, VcpuId(1)).unwrap_err().errno, Errno::EINVAL);
    let console = bind_virq(domain, Virq::CONSOLE, VcpuId(0)).unwrap();
    bind_vcpu(domain, console, VcpuId(1)).unwrap();
    assert_eq!(bind_virq(domain, Virq::CONSOLE, VcpuId(0)).unwrap_err().errno, Errno::EEXIST);
    assert_eq!(
        bind_vcpu(domain, timer, VcpuId(1)).unwrap_err().errno,
        Errno::EINVAL,
        "each vCPU has its own"
    );
    assert_eq!(bind_virq(domain, Virq::DEBUG, VcpuId(4)).unwrap_err().errno, Errno::ENOENT);
    raise_virq(domain, Virq::DEBUG, VcpuId(0));
    assert!(!info(&guest).pending(), "nobody bound it");
    raise_virq(domain, Virq::TIMER, VcpuId(0));
    assert!(domain.shared().is_pending(timer));
    assert_eq!(send(&world.services.domains, domain, timer).unwrap_err().errno, Errno::EINVAL);
    let ipi = bind_ipi(domain, VcpuId(0)).unwrap();
    send(&world.services.domains, domain, ipi).unwrap();
    assert!(domain.shared().is_pending(ipi));
    assert_eq!((state(&guest, timer), state(&guest, ipi)), (PortStatus::VIRQ, PortStatus::IPI));
    let own = alloc_unbound(domain, DomId::HOST).unwrap();
    bind_vcpu(domain, own, VcpuId(0)).unwrap();
    assert_eq!(bind_vcpu(domain, own, VcpuId(4)).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(bind_vcpu(domain, ipi, VcpuId(0)).unwrap_err().errno, Errno::EINVAL);
}

#[derive(Default)]
struct Count(AtomicU32, AtomicU32);

impl HostPort for Count {
    fn notified(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn closed(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_host_has_ends_of_its_own() {
    let world = World::new();
    let guest = world.guest();
    let domains = &world.services.domains;
    let port = alloc_unbound(&guest.domain, DomId::HOST).unwrap();
    let (events, stranger) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let channel = connect(&guest.domain, port, events.clone()).unwrap();
    assert_eq!(events.0.load(Ordering::SeqCst), 1, "a new connection starts with an event");
    assert!(connect(&guest.domain, port, stranger).is_err(), "connected already");
    send(domains, &guest.domain, port).unwrap();
    assert_eq!(events.0.load(Ordering::SeqCst), 2);
    assert!(channel.notify() && guest.domain.shared().is_pending(port));
    assert_eq!(state(&guest, port), PortStatus::INTERDOMAIN);
    drop(channel);
    assert_eq!(state(&guest, port), PortStatus::UNBOUND, "the host let go");
    send(domains, &guest.domain, port).unwrap();
    let channel = connect(&guest.domain, port, events.clone()).unwrap();
    close(domains, &guest.domain, port).unwrap();
    assert_eq!((events.1.load(Ordering::SeqCst), channel.notify()), (1, false));
    let reused = alloc_unbound(&guest.domain, DomId::HOST).unwrap();
    assert_eq!(reused, port);
    let newer = connect(&guest.domain, reused, events.clone()).unwrap();
    assert!(!channel.notify() && newer.notify(), "an old handle reaches no new port");
    drop(channel);
    assert_eq!(state(&guest, reused), PortStatus::INTERDOMAIN, "nor does it let go of one");
}
