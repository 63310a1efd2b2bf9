//! Sleeping, timers, batches of calls, and the way to user mode.

use crate::domain::{End, Stage};
use crate::error::Failure;
use crate::hypercall::Outcome;
use crate::testing::{BASE, Guest, USER_BASE, World, change_what_is_read, page};
use crate::vcpu::Mode;
use pv_abi::event_channel::Virq;
use pv_abi::hypercall::MulticallEntry;
use pv_abi::mmu::MmuUpdate;
use pv_abi::sched::{Poll, ShutdownReason};
use pv_abi::trap::IretContext;
use pv_abi::vcpu::{SetPeriodicTimer, SetSingleshotTimer};
use pv_abi::{Errno, EventPort, Pfn, VcpuId};

fn entry(op: u64, args: &[u64]) -> MulticallEntry {
    let mut entry = MulticallEntry { op, result: 0xbad, args: [0; 6] };
    entry.args[..args.len()].copy_from_slice(args);
    entry
}

fn results<const N: usize>(world: &World, guest: &Guest) -> [u64; N] {
    world.peek::<[[u64; 8]; N]>(guest, page(1)).map(|entry| entry[1])
}

pub fn multicall(world: &World, guest: &Guest) {
    let calls = [
        entry(17, &[0, 0]),
        entry(99, &[]),
        entry(13, &[page(1), 1]),
        entry(3, &[0, page(6)]),
        entry(29, &[0]),
    ];
    world.poke(guest, page(1), calls.as_slice());
    assert_eq!(world.outcome(guest, 13, &[page(1), 5]).unwrap(), Outcome::Yielded, "the last one yields");
    let (enosys, einval) = (Errno::ENOSYS.to_return(), Errno::EINVAL.to_return());
    assert_eq!(results(world, guest), [4 << 16 | 17, enosys, einval, 0, 0], "it goes on after errors");
    world.on_vcpu(guest, |_, vcpu| {
        assert_eq!((vcpu.kernel_stack, vcpu.context.registers.rax), (page(6), 0));
    });
    let many = [entry(17, &[7]); 200];
    world.poke(guest, page(3), many.as_slice());
    assert_eq!(world.call(guest, 13, &[page(3), 200]), Ok(0), "in several runs");
    assert_eq!(world.peek::<MulticallEntry>(guest, page(3) + 199 * 64).result, 4096);
    let update = MmuUpdate { ptr: guest.pages[30].address() | 1, val: 30 };
    world.poke(guest, page(2), [update, MmuUpdate { val: 31, ..update }].as_slice());
    let batches = [entry(1, &[page(2), 1, 0, 0x7ff0]), entry(1, &[page(2) + 16, 1, 0, 0x7ff0])];
    world.poke(guest, page(1), batches.as_slice());
    assert_eq!(world.call(guest, 13, &[page(1), 2]), Ok(0));
    assert_eq!(world.services.mmu.pfn(guest.pages[30]), Pfn(31), "each batch starts at its start");
    assert_eq!(world.call(guest, 13, &[BASE - 4096, 1]), Err(Errno::EFAULT));
    assert_eq!(world.call(guest, 13, &[u64::MAX, 2]), Err(Errno::EFAULT));
}

#[test]
fn a_multicall_stops_at_iret() {
    let world = World::new();
    let guest = world.guest();
    world.poke(&guest, page(1), [entry(17, &[7]), entry(23, &[]), entry(3, &[0, page(6)])].as_slice());
    let frame = IretContext {
        rax: 7,
        rip: BASE + 9,
        cs: 0xe030,
        rflags: 2,
        rsp: page(8),
        ss: 0xe02b,
        ..Default::default()
    };
    world.poke(&guest, page(9), &frame);
    world.on_vcpu(&guest, |_, vcpu| vcpu.context.registers.rsp = page(9));
    assert_eq!(world.outcome(&guest, 13, &[page(1), 3]).unwrap(), Outcome::Resumed);
    assert_eq!(results(&world, &guest), [4096, 0xbad, 0xbad]);
    world.on_vcpu(&guest, |_, vcpu| {
        assert_eq!((vcpu.context.registers.rax, vcpu.context.registers.rip), (7, BASE + 9));
        assert_eq!(vcpu.kernel_stack, 0, "what comes after is not made");
    });
}

pub fn iret(world: &World, guest: &Guest) {
    let frame = IretContext { rip: USER_BASE, cs: 0xe033, ss: 0xe02b, ..Default::default() };
    world.poke(guest, page(9), &frame);
    world.on_vcpu(guest, |_, vcpu| vcpu.context.registers.rsp = page(9));
    assert!(matches!(world.outcome(guest, 23, &[]), Err(Failure::Crash(_))), "no user root");
    world.poke(
        guest,
        page(1),
        &pv_abi::mmu::MmuExtOp::new(pv_abi::mmu::MmuExtCommand::NEW_USER_BASEPTR, guest.user_root.0),
    );
    assert_eq!(world.call(guest, 26, &[page(1), 1, 0, 0x7ff0]), Ok(0));
    assert_eq!(world.outcome(guest, 23, &[]).unwrap(), Outcome::Resumed);
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.mode, Mode::User));
}

pub fn timers(world: &World, guest: &Guest) {
    let domain = &guest.domain;
    let port = crate::event_channel::bind_virq(domain, Virq::TIMER, VcpuId(0)).unwrap();
    let fired = || {
        world.services.fire_timers();
        let fired = domain.shared().is_pending(port);
        domain.shared().clear_pending(port);
        fired
    };
    let now = world.now();
    assert_eq!(world.call(guest, 15, &[now + 100]), Ok(0));
    assert!(!fired());
    world.clock.advance(100);
    assert!(fired() && !fired(), "once");
    let single_shot = |timeout_abs_ns, flags| {
        world.poke(guest, page(1), &SetSingleshotTimer { timeout_abs_ns, flags, padding: 0 });
        world.call(guest, 24, &[8, 0, page(1)])
    };
    assert_eq!(world.call(guest, 15, &[1 << 63]), Ok(0));
    world.clock.advance(99_000_000);
    assert!(!fired());
    world.clock.advance(1_000_000);
    assert!(fired(), "a deadline that wrapped");
    let now = world.now();
    assert_eq!(single_shot(1, 0), Ok(0));
    assert!(fired(), "one in the past fires at once");
    assert_eq!(single_shot(1, 1), Err(Errno::ETIME));
    assert_eq!(single_shot(now + 200, 1), Ok(0));
    assert_eq!(world.call(guest, 15, &[0]), Ok(0));
    world.clock.advance(1000);
    assert!(!fired(), "set_timer_op(0) stops the one timer that there is");
    assert_eq!(single_shot(now + 2000, 0), Ok(0));
    assert_eq!(world.call(guest, 24, &[9, 0, 0]), Ok(0));
    world.clock.advance(5000);
    assert!(!fired());
    assert_eq!(world.call(guest, 24, &[8, 0, BASE - 4096]), Err(Errno::EFAULT));
    let periodic = |vcpu, period_ns| {
        world.poke(guest, page(1), &SetPeriodicTimer { period_ns });
        world.call(guest, 24, &[6, vcpu, page(1)])
    };
    for (vcpu, period) in [(0, 0), (0, 999_999), (0, (u64::MAX >> 2) + 1), (1, 1_000_000)] {
        assert_eq!(periodic(vcpu, period), Err(Errno::EINVAL), "{period}");
    }
    assert_eq!(periodic(0, 1_000_000), Ok(0));
    for _ in 0..3 {
        world.clock.advance(999_000);
        assert!(!fired());
        world.clock.advance(1_000);
        assert!(fired());
    }
    assert_eq!(world.call(guest, 24, &[3, 0, 0]), Ok(1));
    assert_eq!(world.call(guest, 24, &[7, 0, 0]), Ok(0));
    world.clock.advance(10_000_000);
    assert!(!fired(), "the periodic timer is stopped");
    assert_eq!(world.call(guest, 24, &[0, 0, page(8)]), Err(Errno::EEXIST));
    assert_eq!(world.call(guest, 24, &[14, 0, 0]), Err(Errno::ENOSYS));
    for past in [4, 31, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(world.call(guest, 24, &[3, past, 0]), Err(Errno::ENOENT), "probes end there");
    }
}

pub fn sched_op(world: &World, guest: &Guest) {
    let info = guest.domain.vcpus()[0].info();
    assert_eq!(world.outcome(guest, 29, &[0]).unwrap(), Outcome::Yielded);
    assert!(info.masked());
    assert_eq!(world.outcome(guest, 29, &[1]).unwrap(), Outcome::Blocked);
    assert!(!info.masked(), "block unmasks");
    assert_eq!(world.call(guest, 29, &[99]), Err(Errno::ENOSYS));
    assert_eq!(world.call(guest, 29, &[2, BASE - 4096]), Err(Errno::EFAULT));
    poll(world, guest);
    world.poke(guest, page(1), &ShutdownReason::CRASH);
    assert!(matches!(world.outcome(guest, 29, &[2, page(1)]), Err(Failure::Crash(_))));
    world.poke(guest, page(1), &ShutdownReason::WATCHDOG);
    assert_eq!(world.call(guest, 29, &[5, page(1)]), Ok(0));
    world.poke(guest, page(1), &ShutdownReason::POWEROFF);
    assert_eq!(world.outcome(guest, 29, &[2, page(1)]).unwrap(), Outcome::Ended);
    let stage = guest.domain.life().stage();
    assert!(matches!(stage, Stage::Dying(End::Shutdown(ShutdownReason::WATCHDOG))), "{stage:?}");
}

/// XSA class "raw indices": a port that is read twice can be a good one the first time and anything the second.
#[test]
fn the_ports_of_a_poll_are_read_once() {
    let mut world = World::new();
    let guest = world.guest();
    let mut polled = 0;
    for seed in 1..400 {
        world.poke(&guest, page(1), &Poll { ports: page(2), nr_ports: 16, padding: 0, timeout: 0 });
        world.poke(&guest, page(2), [EventPort(5); 16].as_slice());
        change_what_is_read(Some((guest.domain.id(), seed * 0x9e37_79b9)));
        let outcome = world.outcome(&guest, 29, &[3, page(1)]).unwrap();
        change_what_is_read(None);
        world.on_vcpu(&guest, |_, vcpu| vcpu.continuation = None);
        if let Outcome::Polling { ports, .. } = outcome {
            polled += 1;
            assert!(ports.iter().all(|&port| port == EventPort(5)), "{ports:?}");
        }
    }
    assert!(polled > 100, "{polled} polls");
    world.check_end(vec![guest]);
}

fn poll(world: &World, guest: &Guest) {
    let ask = |nr_ports, timeout| {
        world.poke(guest, page(1), &Poll { ports: page(2), nr_ports, padding: 0, timeout });
        let outcome = world.outcome(guest, 29, &[3, page(1)]).unwrap();
        world.on_vcpu(guest, |_, vcpu| vcpu.continuation = None);
        outcome
    };
    let einval = Outcome::Done(Errno::EINVAL.to_return());
    let ports = [EventPort(5), EventPort(6)];
    world.poke(guest, page(2), ports.as_slice());
    assert_eq!(ask(2, 0), Outcome::Polling { ports: ports.to_vec(), until: None }, "0 means never");
    assert!(guest.domain.vcpus()[0].polls());
    assert_eq!(ask(2, 1), Outcome::Done(0), "a time in the past");
    assert!(!guest.domain.vcpus()[0].polls());
    guest.domain.shared().set_pending(EventPort(6));
    assert_eq!(ask(2, 0), Outcome::Done(0), "pending, though masked");
    assert_eq!((ask(129, 0), ask(u32::MAX, 0)), (einval.clone(), einval.clone()));
    world.poke(guest, page(2), [EventPort(4096)].as_slice());
    assert_eq!(ask(1, 0), einval);
    guest.domain.shared().clear_pending(EventPort(6));
}
