//! Turns of vCPUs on fake pcpus.

mod pcpus;

use super::*;
use crate::clock::{FakeClock, MILLISECOND};
use crate::domain::End;
use crate::domain::Stage;
use crate::domain::{Symbol, SymbolTable};
use crate::event_channel::{alloc_unbound, bind_ipi, connect, raise_virq, send};
use crate::machine::fake::FakePcpu;
use crate::machine::{Exit, MachineError, Root, Unhandled};
use crate::sched::SLICE;
use crate::testing::{BASE, Guest, LIMIT, STACK, Threads, USER_BASE, World, page, syscall, wait_until};
use crate::vcpu::{Callback, Callbacks};
use pv_abi::DomId;
use pv_abi::event_channel::Virq;
use pv_abi::mmu::MmuUpdate;
use pv_abi::sched::{Poll, SchedOp, ShutdownReason};
use pv_abi::time::VcpuTimeInfo;
use pv_abi::trap::TrapInfo;
use pv_abi::vcpu::Runstate;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

const EVENT: u64 = BASE + 0x100;
/// Long enough for every thread on a busy host.
const PATIENCE: Duration = Duration::from_secs(20);

fn with_event_callback(world: &World, guest: &Guest) {
    world.on_vcpu(guest, set_event_callback);
}

fn set_event_callback(handle: &VcpuHandle, vcpu: &mut Vcpu) {
    let event = Some(Callback { address: EVENT, masks_events: true });
    vcpu.callbacks = Callbacks { event, syscall: event, ..Callbacks::default() };
    vcpu.kernel_stack = page(20);
    handle.info().set_masked(false);
}

/// What the guest's registers were at each of its entries.
type Seen = Arc<Mutex<Vec<(u64, u64)>>>;

/// The guest notes RIP and RAX, and stops for `exit`.
fn note(world: &World, guest: &Guest, seen: &Seen, exit: Exit) {
    let seen = seen.clone();
    world.script(guest, move |context| {
        seen.lock().unwrap().push((context.registers.rip, context.registers.rax));
        exit.clone()
    });
}

/// Whatever its identity and its state: a vCPU that was never initialised is not run on whatever table is loaded.
#[test]
fn a_vcpu_without_a_root_is_not_entered() {
    let world = World::new();
    let guest = Guest::build(&world.services);
    let mut vcpu = guest.domain.vcpus()[0].state().lock();
    assert_eq!(vcpu.context.root, Root::NONE);
    world.scripts.forever(vcpu.context.identity, |context| syscall(context, 29, &[0]));
    let mut pcpu = FakePcpu::new(0, world.scripts.clone(), world.clock.clone());
    let error = pcpu.enter(&mut vcpu.context).unwrap_err();
    assert!(error.to_string().contains("cannot be entered"), "{error}");
    vcpu.context.root = Root::of_valid_l4(guest.root);
    assert!(matches!(pcpu.enter(&mut vcpu.context), Ok(Exit::Syscall)));
}

#[test]
fn a_hypercall_returns_through_the_gate_that_it_came_by() {
    let mut world = World::new();
    let guest = world.guest();
    world.script(&guest, |context| {
        context.registers.rcx = 1;
        (context.cs, context.ss) = (0x1b, 0x13);
        syscall(context, 17, &[7])
    });
    world.script(&guest, |context| {
        let r = context.registers;
        assert_eq!((r.rax, r.rcx, r.r11), (4096, r.rip, r.rflags));
        assert_eq!((context.cs, context.ss), (0xe033, 0xe02b));
        context.registers.rcx = 1;
        syscall(context, 17, &[0]);
        Exit::Doorbell
    });
    world.script(&guest, |context| {
        assert_eq!((context.registers.rax, context.registers.rcx), (4 << 16 | 17, 1));
        syscall(context, 29, &[0])
    });
    world.turns(0, 1);
    assert_eq!(world.scripts.left(guest.identity()), 0);
    world.check_end(vec![guest]);
}

#[test]
fn the_same_exits_mean_something_else_in_user_mode() {
    let mut world = World::new();
    let guest = world.guest();
    with_event_callback(&world, &guest);
    let seen = Seen::default();
    let gp = BASE + 0x700;
    world.on_vcpu(&guest, |_, vcpu| {
        let entry = TrapInfo { vector: 13, flags: 0, cs: 0xe033, padding: 0, address: gp };
        vcpu.traps.set(entry);
        vcpu.user_for_test(&world.services.mmu, guest.user_root);
    });
    note(&world, &guest, &seen, Exit::Syscall);
    world.script(&guest, |context| syscall(context, 29, &[0]));
    world.turns(0, 1);
    world.on_vcpu(&guest, |_, vcpu| vcpu.user_for_test(&world.services.mmu, guest.user_root));
    note(&world, &guest, &seen, Exit::Doorbell);
    note(&world, &guest, &seen, Exit::Unhandled { what: Unhandled::Emulation { reason: 1 } });
    note(&world, &guest, &seen, Exit::Kicked);
    world.turns(0, 1);
    let rips: Vec<u64> = seen.lock().unwrap().iter().map(|&(rip, _)| rip).collect();
    assert_eq!(rips[2..], [gp, gp], "the doorbell from user mode, then what the machine cannot do");
    assert_eq!(guest.domain.statistics().hypercalls_of(29), 2);
    world.check_end(vec![guest]);
}

/// Machines that refuse `syscall` report #UD: it means what the instruction does.
#[test]
fn a_refused_syscall_is_a_hypercall_or_a_system_call() {
    let mut world = World::new();
    let guest = world.guest();
    with_event_callback(&world, &guest);
    world.poke(&guest, BASE, &[0x0fu8, 0x05]);
    world.machine.memory.write(guest.user_pages[0], 0, &[0x0f, 0x05]).unwrap();
    let refused = Exit::Exception { vector: 6, error_code: 0, cr2: 0 };
    let by_kernel = refused.clone();
    world.script(&guest, move |context| {
        context.registers.rip = BASE;
        syscall(context, 17, &[0]);
        by_kernel.clone()
    });
    world.script(&guest, |context| {
        let r = context.registers;
        assert_eq!((r.rip, r.rax, r.rcx), (BASE + 2, 4 << 16 | 17, BASE + 2));
        syscall(context, 29, &[0])
    });
    world.turns(0, 1);
    world.on_vcpu(&guest, |_, vcpu| vcpu.user_for_test(&world.services.mmu, guest.user_root));
    world.script(&guest, move |context| {
        context.registers.rip = USER_BASE;
        refused.clone()
    });
    let seen = Seen::default();
    note(&world, &guest, &seen, Exit::Kicked);
    world.script(&guest, |context| syscall(context, 29, &[0]));
    world.turns(0, 1);
    assert_eq!(seen.lock().unwrap()[0].0, EVENT, "the callback of system calls");
    assert_eq!(guest.domain.statistics().hypercalls_of(17), 1);
    world.check_end(vec![guest]);
}

/// The doorbell may have been taken down meanwhile, so ringing it is nobody's fault.
#[test]
fn a_ring_that_nobody_answers_goes_nowhere() {
    let mut world = World::new();
    let guest = world.guest();
    with_event_callback(&world, &guest);
    let seen = Seen::default();
    note(&world, &guest, &seen, Exit::Unanswered);
    note(&world, &guest, &seen, Exit::Unanswered);
    world.script(&guest, |context| syscall(context, 29, &[0]));
    world.turns(0, 1);
    let rips: Vec<u64> = seen.lock().unwrap().iter().map(|&(rip, _)| rip).collect();
    assert_eq!(rips[0], rips[1], "it goes on, and nothing arrives");
    let statistics = guest.domain.statistics().snapshot();
    assert!(statistics.exits.contains(&("unanswered", 2)), "{statistics:?}");
    assert_eq!(statistics.upcalls, 0);
    world.check_end(vec![guest]);
}

#[test]
fn a_blocked_vcpu_wakes_by_an_event_and_by_its_timer() {
    let mut world = World::new();
    let guest = world.guest();
    with_event_callback(&world, &guest);
    let port = crate::event_channel::bind_virq(&guest.domain, Virq::TIMER, VcpuId(0)).unwrap();
    let (seen, deadline) = (Seen::default(), world.now() + 10 * MILLISECOND);
    world.script(&guest, move |context| syscall(context, 15, &[deadline]));
    world.script(&guest, |context| syscall(context, 29, &[1]));
    note(&world, &guest, &seen, Exit::Kicked);
    world.turns(0, 3);
    assert!(seen.lock().unwrap().is_empty(), "it sleeps");
    world.clock.advance(10 * MILLISECOND);
    world.turns(0, 1);
    assert_eq!(*seen.lock().unwrap(), [(EVENT, 0)]);
    assert!(guest.domain.shared().is_pending(port));
    assert_eq!(guest.domain.statistics().snapshot().upcalls, 1);
    world.check_end(vec![guest]);
}

#[test]
fn a_wake_up_between_look_and_sleep_is_not_lost() {
    let mut world = World::new();
    let guest = world.guest();
    with_event_callback(&world, &guest);
    let port = bind_ipi(&guest.domain, VcpuId(0)).unwrap();
    let (seen, services, domain) = (Seen::default(), world.services.clone(), guest.domain.clone());
    world.script(&guest, move |context| {
        // The event comes after the guest looked and masked, before it sleeps.
        domain.vcpus()[0].info().set_masked(true);
        send(&services.domains, &domain, port).unwrap();
        syscall(context, 29, &[1])
    });
    note(&world, &guest, &seen, Exit::Kicked);
    world.turns(0, 2);
    assert_eq!(*seen.lock().unwrap(), [(EVENT, 0)], "block unmasks and looks again");
    world.check_end(vec![guest]);
}

/// Nobody reads what a guest writes. It sleeps, others run, and it goes on where it was once there is room.
#[test]
fn a_guest_that_floods_its_console_sleeps_alone() {
    let mut world = World::new();
    let (flooder, other) = (world.guest(), world.guest());
    let (seen, others) = (Seen::default(), Seen::default());
    flooder.console.room.store(100, Ordering::SeqCst);
    world.poke(&flooder, page(1), [7_u8; 300].as_slice());
    world.script(&flooder, |context| syscall(context, 18, &[0, 300, page(1)]));
    note(&world, &flooder, &seen, Exit::Kicked);
    note(&world, &other, &others, Exit::Kicked);
    world.turns(0, 4);
    assert_eq!(flooder.console.written.lock().unwrap().len(), 100);
    assert_eq!((seen.lock().unwrap().len(), others.lock().unwrap().len()), (0, 1));
    // An event finds that there is no room yet.
    flooder.domain.wake(VcpuId(0));
    world.turns(0, 2);
    assert_eq!(seen.lock().unwrap().len(), 0);
    for room in [101, 1000] {
        flooder.console.room.store(room, Ordering::SeqCst);
        flooder.domain.room_again();
        world.turns(0, 2);
    }
    assert_eq!(*flooder.console.written.lock().unwrap(), [7; 300]);
    assert_eq!(seen.lock().unwrap().len(), 1, "the call has returned");
    assert!(!flooder.domain.vcpus()[0].awaits_room());
    world.check_end(vec![flooder, other]);
}

/// Room that comes between the write and the sleep, before anybody could be woken.
#[test]
fn room_in_the_console_is_not_slept_through() {
    let mut world = World::new();
    let guest = world.guest();
    let seen = Seen::default();
    guest.console.room.store(1, Ordering::SeqCst);
    guest.console.late_room.store(1, Ordering::SeqCst);
    world.script(&guest, |context| syscall(context, 18, &[0, 2, page(1)]));
    note(&world, &guest, &seen, Exit::Kicked);
    world.turns(0, 2);
    assert_eq!(seen.lock().unwrap().len(), 1);
    world.check_end(vec![guest]);
}

#[test]
fn a_poll_ends_with_its_port_or_its_time() {
    let mut world = World::new();
    let guest = world.guest();
    let seen = Seen::default();
    let (port, other) =
        (bind_ipi(&guest.domain, VcpuId(0)).unwrap(), bind_ipi(&guest.domain, VcpuId(0)).unwrap());
    let timeout = world.now() + MILLISECOND;
    world.poke(&guest, page(1), &Poll { ports: page(2), nr_ports: 1, padding: 0, timeout });
    world.poke(&guest, page(2), &port);
    world.script(&guest, |context| syscall(context, 29, &[3, page(1)]));
    note(&world, &guest, &seen, Exit::Kicked);
    world.turns(0, 2);
    send(&world.services.domains, &guest.domain, other).unwrap();
    world.turns(0, 2);
    assert!(seen.lock().unwrap().is_empty(), "another port, and upcalls are masked");
    send(&world.services.domains, &guest.domain, port).unwrap();
    world.turns(0, 1);
    assert_eq!(seen.lock().unwrap().len(), 1, "its port");
    guest.domain.shared().clear_pending(port);
    world.script(&guest, |context| syscall(context, 29, &[3, page(1)]));
    note(&world, &guest, &seen, Exit::Kicked);
    world.turns(0, 2);
    assert_eq!(seen.lock().unwrap().len(), 1);
    world.clock.advance(MILLISECOND);
    world.turns(0, 1);
    assert_eq!(seen.lock().unwrap().len(), 2, "its time");
    world.check_end(vec![guest]);
}

#[test]
fn a_crash_is_reported_with_who_called_whom() {
    let mut world = World::new();
    let guest = world.guest();
    let names = [("main", BASE + 0x10), ("helper", BASE + 0x80)];
    let symbol = |(name, address): (&str, u64)| Symbol { address, size: 0x40, name: name.into() };
    guest.domain.set_symbols(names.into_iter().map(symbol).collect::<SymbolTable>());
    world.poke(&guest, STACK - 64, &[STACK - 32, BASE + 0x14]);
    world.poke(&guest, STACK - 32, &[STACK - 32, BASE + 0x2_0000]);
    world.script(&guest, |context| {
        (context.registers.rip, context.registers.rbp) = (BASE + 0x88, STACK - 64);
        Exit::Exception { vector: 14, error_code: 0b10, cr2: 0x10 }
    });
    world.turns(0, 1);
    let Stage::Dying(End::Crashed(report)) = guest.domain.life().stage() else { panic!("it lives") };
    let reason = "the kernel has no handler for: PAGE_FAULT at 0x10 (write, not mapped; error code 0x2)";
    assert_eq!(report.reason, reason);
    let calls: Vec<_> = report.calls.iter().map(|call| call.symbol.as_deref()).collect();
    assert_eq!(calls, [Some("helper+0x8"), Some("main+0x4"), None], "it stops where frames do not rise");
    let text = report.to_string();
    assert!(text.contains("helper+0x8") && text.contains("rip 0xffffffff80000088"), "{text}");
    world.check_end(vec![guest]);
}

/// A guest that makes a batch of 4096 updates when its slice is over.
fn with_a_long_batch(world: &World) -> Guest {
    let guest = world.guest();
    let request = MmuUpdate { ptr: guest.pages[30].address() | 1, val: 30 };
    (8..24).for_each(|place| world.poke(&guest, page(place), [request; 256].as_slice()));
    let clock = world.clock.clone();
    world.script(&guest, move |context| {
        clock.advance(SLICE);
        syscall(context, 1, &[page(8), 4096, 0, 0x7ff0])
    });
    guest
}

#[test]
fn a_long_hypercall_lets_others_run() {
    let mut world = World::new();
    let (long, other) = (with_a_long_batch(&world), world.guest());
    let seen = Seen::default();
    note(&world, &long, &seen, Exit::Kicked);
    world.turns(0, 1);
    let progress = world.on_vcpu(&long, |_, vcpu| vcpu.continuation.unwrap().progress.elements);
    assert!((1..4096).contains(&progress), "{progress} elements before the others");
    world.turns(0, 1);
    assert!(other.domain.statistics().hypercalls_of(29) > 0, "the other one ran");
    assert!(seen.lock().unwrap().is_empty(), "the guest waits for its hypercall");
    world.turns(0, 1);
    assert_eq!(seen.lock().unwrap()[0].1, 0, "it has returned");
    world.check_end(vec![long, other]);
}

#[test]
fn a_domain_can_end_in_the_midst_of_a_hypercall() {
    let mut world = World::new();
    let (long, other) = (with_a_long_batch(&world), world.guest());
    world.turns(0, 1);
    world.on_vcpu(&long, |_, vcpu| assert!(vcpu.continuation.is_some()));
    world.check_end(vec![long, other]);
}

#[test]
fn turns_are_shared_and_the_clock_goes_on() {
    let mut world = World::new();
    let (a, b) = (world.guest(), world.guest());
    let order = Arc::new(Mutex::new(Vec::new()));
    for guest in [&a, &b] {
        for _ in 0..3 {
            let (order, clock, id) = (order.clone(), world.clock.clone(), guest.domain.id());
            world.script(guest, move |_| {
                order.lock().unwrap().push(id);
                crate::clock::Clock::now(&*clock);
                clock.advance(SLICE);
                Exit::Kicked
            });
        }
    }
    let mut last = 0;
    for _ in 0..6 {
        world.turns(0, 1);
        let mut bytes = [0; 32];
        world.machine.memory.read(a.domain.shared().frame(), 32, &mut bytes).unwrap();
        let time: VcpuTimeInfo = zerocopy::FromBytes::read_from_bytes(&bytes).unwrap();
        let now = time.system_time_at(world.now());
        assert!(time.version.is_multiple_of(2) && now >= last && now.abs_diff(world.now()) < MILLISECOND);
        last = now;
    }
    let (a_id, b_id) = (a.domain.id(), b.domain.id());
    assert_eq!(*order.lock().unwrap(), [a_id, b_id, a_id, b_id, a_id, b_id]);
    assert!(a.domain.statistics().snapshot().time >= 3 * SLICE, "what was used is accounted");
    world.check_end(vec![a, b]);
}

#[test]
fn a_guest_that_loops_does_not_stop_the_others() {
    let threads = Threads::new(1);
    let (looping, working) = (threads.guest(), threads.guest());
    let count = Arc::new(AtomicU64::new(0));
    threads.scripts.forever(working.identity(), {
        let count = count.clone();
        move |context| {
            count.fetch_add(1, Ordering::SeqCst);
            syscall(context, 29, &[0])
        }
    });
    threads.start(&looping);
    threads.start(&working);
    wait_until(|| count.load(Ordering::SeqCst) > 5);
    threads.hypervisor.destroy(&looping.domain);
    let end = threads.hypervisor.wait_for(&looping.domain, PATIENCE).unwrap();
    assert!(matches!(end.end, End::Destroyed) && end.statistics.time > 0);
    threads.hypervisor.shutdown();
    assert!(matches!(working.domain.life().stage(), Stage::Dead(End::Destroyed)));
}

#[test]
fn an_event_for_a_running_vcpu_kicks_its_pcpu() {
    let threads = Threads::new(1);
    let guest = threads.guest();
    set_event_callback(&guest.domain.vcpus()[0], &mut guest.domain.vcpus()[0].state().lock());
    let (sender, entered) = channel();
    for _ in 0..2 {
        let sender = sender.clone();
        threads.scripts.push(guest.identity(), move |context| {
            sender.send(context.registers.rip).unwrap();
            Exit::Kicked
        });
    }
    threads.start(&guest);
    assert_eq!(entered.recv_timeout(PATIENCE), Ok(BASE));
    assert_eq!(entered.recv_timeout(PATIENCE), Ok(BASE));
    // From here on it loops, until an event comes.
    crate::event_channel::bind_virq(&guest.domain, Virq::DEBUG, VcpuId(0)).unwrap();
    threads.scripts.push(guest.identity(), move |context| {
        sender.send(context.registers.rip).unwrap();
        Exit::Kicked
    });
    raise_virq(&guest.domain, Virq::DEBUG, VcpuId(0));
    assert_eq!(entered.recv_timeout(PATIENCE), Ok(EVENT));
}

/// The guest answers each event of the host's with one of its own, and sleeps in between.
fn ping_pong(threads: &Threads, rounds: u32) {
    let guest = threads.guest();
    let port = alloc_unbound(&guest.domain, DomId::HOST).unwrap();
    set_event_callback(&guest.domain.vcpus()[0], &mut guest.domain.vcpus()[0].state().lock());
    let (sender, answers) = channel();
    let sender = Mutex::new(sender);
    // A test that has ended listens no more.
    let end = Arc::new(move || sender.lock().unwrap().send(()).unwrap_or_default());
    let host = connect(&guest.domain, port, end).unwrap();
    answers.recv_timeout(PATIENCE).unwrap();
    threads.poke(&guest, page(1), &port);
    let domain = guest.domain.clone();
    let mut sends = false;
    threads.scripts.forever(guest.identity(), move |context| {
        if std::mem::take(&mut sends) {
            return syscall(context, 29, &[1]);
        }
        if context.registers.rip != EVENT {
            return syscall(context, 29, &[1]);
        }
        (context.registers.rip, context.registers.rsp) = (BASE, STACK);
        let page = domain.shared().frame();
        domain.shared().memory().swap_u8(page, 0, 0).unwrap();
        domain.shared().memory().store_u64(page, 8, 0).unwrap();
        domain.shared().clear_pending(port);
        sends = true;
        syscall(context, 32, &[4, crate::testing::page(1)])
    });
    threads.start(&guest);
    for round in 0..rounds {
        assert!(host.notify());
        assert!(answers.recv_timeout(PATIENCE).is_ok(), "round {round}: a wake-up was lost");
    }
    threads.hypervisor.destroy(&guest.domain);
    assert!(threads.hypervisor.wait_for(&guest.domain, PATIENCE).is_some());
}

#[test]
fn no_wake_up_is_lost_in_a_thousand() {
    ping_pong(&Threads::new(1), 1000);
    ping_pong(&Threads::new(2), 1000);
}

#[test]
fn a_guest_that_shuts_down_is_gone_with_all_its_frames() {
    let threads = Threads::new(2);
    let free = threads.hypervisor.services().mmu.free_frames();
    for status in [0, 7] {
        let guest = threads.guest();
        threads.poke(&guest, page(1), &ShutdownReason::POWEROFF);
        threads.scripts.push(guest.identity(), move |context| syscall(context, 127, &[0, status]));
        threads.scripts.push(guest.identity(), |context| syscall(context, 29, &[2, page(1)]));
        threads.start(&guest);
        let end = threads.hypervisor.wait_for(&guest.domain, PATIENCE).unwrap();
        assert_eq!((end.reason(), u64::from(end.status)), (ShutdownReason::POWEROFF, status));
        assert_eq!(end.statistics.hypercalls, [(29, 1), (127, 1)]);
        assert_eq!(threads.hypervisor.services().mmu.free_frames(), free);
    }
}

#[test]
fn a_panic_in_the_machine_ends_what_its_pcpu_ran() {
    let threads = Threads::new(2);
    let (unlucky, other) = (threads.guest(), threads.guest());
    threads.scripts.push(unlucky.identity(), |_| panic!("on purpose"));
    threads.start(&unlucky);
    let end = threads.hypervisor.wait_for(&unlucky.domain, PATIENCE).unwrap();
    assert!(matches!(end.end, End::HostFailed(_)), "{}", end.end);
    assert_eq!(end.report().unwrap().reason, "a defect of the hypervisor: on purpose");
    threads.start(&other);
    threads.hypervisor.shutdown();
    assert!(matches!(other.domain.life().stage(), Stage::Dead(End::Destroyed)));
}

/// A panic behind a hypercall, on the only pcpu that there is.
#[test]
fn a_panic_ends_the_domain_that_it_served() {
    let threads = Threads::new(1);
    let free = threads.hypervisor.services().mmu.free_frames();
    let (unlucky, other) = (threads.guest(), threads.guest());
    let port = alloc_unbound(&unlucky.domain, DomId::HOST).unwrap();
    let told = AtomicU64::new(0);
    let end = move || assert_eq!(told.fetch_add(1, Ordering::SeqCst), 0, "on purpose");
    let _host = connect(&unlucky.domain, port, Arc::new(end)).unwrap();
    threads.poke(&unlucky, page(1), &port);
    threads.scripts.push(unlucky.identity(), |context| syscall(context, 32, &[4, page(1)]));
    threads.start(&unlucky);
    let end = threads.hypervisor.wait_for(&unlucky.domain, PATIENCE).unwrap();
    assert!(matches!(end.end, End::HostFailed(_)), "{}", end.end);
    let reason = &end.report().unwrap().reason;
    assert!(reason.starts_with("a defect of the hypervisor: ") && reason.contains("on purpose"), "{reason}");

    threads.poke(&other, page(1), &ShutdownReason::POWEROFF);
    threads.scripts.push(other.identity(), |context| syscall(context, 29, &[2, page(1)]));
    threads.start(&other);
    let end = threads.hypervisor.wait_for(&other.domain, PATIENCE).unwrap();
    assert_eq!(end.reason(), ShutdownReason::POWEROFF, "the pcpu goes on");
    assert_eq!(threads.hypervisor.services().mmu.free_frames(), free, "all is given back");
}
