//! Guests that never stop by themselves. The canary gets its share, and they can be ended from outside.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Condition, Host, Reg, SCRATCH, TABLE, check_power_off};
use hypervisor::domain::End;
use iced_x86::code_asm::{eax, ecx, r12};
use libtest_mimic::{Failed, Trial};
use pv_abi::DomId;
use pv_abi::event_channel::{BindIpi, BindVirq, EventChannelOp, Virq};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::memory::MemoryReservation;
use pv_abi::sched::{Poll, SchedOp};
use pv_abi::{EventPort, PAGE_SIZE, VcpuId};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("loops/with events masked", masked_loop),
        kvm_test("loops/of hypercalls", hypercall_loop),
        kvm_test("loops/of cpuid", cpuid_loop),
        kvm_test("loops/of exceptions", exception_loop),
        kvm_test("loops/of events to itself", event_storm),
        kvm_test("loops/of timers that are past", timer_storm),
        kvm_test("loops/timers at the ends of time", ends_of_time),
        kvm_test("loops/a poll that never ends", endless_poll),
        kvm_test("loops/a block that never ends", endless_block),
        kvm_test("loops/asking for memory", asking_for_memory),
        kvm_test("loops/asking for memory in return for what it keeps", keeping_memory),
    ]
}

/// Runs a guest that does not end. Beside it the canary goes on; it has run, too, and ends when told to.
fn never_ends(code: &Code) -> Result<(), Failed> {
    let host = Host::new()?;
    let guest = host.build(code)?;
    guest.start()?;
    guest.wait_for(|| guest.peek(TURNS) != 0)?;
    for _ in 0..3 {
        host.canary_goes_on()?;
    }
    check(!guest.domain.life().has_ended(), || "it has ended".into())?;
    let end = guest.destroy()?;
    check(matches!(end, End::Destroyed), || format!("it ended otherwise: {end}"))?;
    host.finish()
}

/// Where a guest counts its rounds.
const TURNS: u64 = SCRATCH + 0x800;

/// A kernel starts with upcalls masked, and this one never unmasks them.
fn masked_loop() -> Result<(), Failed> {
    let mut code = Code::default();
    let again = code.here();
    code.increment(TURNS).jump(Condition::Always, again);
    never_ends(&code)
}

/// Its time passes in the hypervisor, which looks at the clock all the same.
fn hypercall_loop() -> Result<(), Failed> {
    let mut code = Code::default();
    let again = code.here();
    code.increment(TURNS).hypercall(N::XEN_VERSION, &[0, 0]).jump(Condition::Always, again);
    never_ends(&code)
}

/// Its time passes in KVM or in the processor, where one of those answers.
fn cpuid_loop() -> Result<(), Failed> {
    let mut code = Code::default();
    let again = code.here();
    code.increment(TURNS).asm(|a| {
        a.xor(eax, eax)?;
        a.xor(ecx, ecx)?;
        a.cpuid()
    });
    // The same through Xen's prefix, for a leaf of the hypervisor's.
    code.mov(Reg::Rax, 0x4000_0000).raw(b"\x0f\x0bxen\x0f\xa2").jump(Condition::Always, again);
    never_ends(&code)
}

/// Each round is a #UD that is bounced to its own handler.
fn exception_loop() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    let again = code.here();
    code.resume_at(again).increment(TURNS).asm(|a| a.ud2());
    never_ends(&code)
}

fn bind_ipi(code: &mut Code) -> u64 {
    let request = code.data(&BindIpi { vcpu: VcpuId(0), port: EventPort(0) });
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_IPI.0, request]);
    request + 4
}

/// Its port is never cleared, and each upcall is answered by another event and by unmasking: an upcall each round.
fn event_storm() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    let port = bind_ipi(&mut code);
    let again = code.here();
    code.resume_at(again).increment(TURNS);
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, port]);
    code.hypercall(N::SCHED_OP, &[SchedOp::BLOCK.0]).jump(Condition::Always, again);
    never_ends(&code)
}

/// The timer is set to the first nanosecond of the machine, again and again, by both calls.
fn timer_storm() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    let request = code.data(&BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: EventPort(0) });
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_VIRQ.0, request]);
    let timer = code.data(&[1u64, 0]);
    let again = code.here();
    code.resume_at(again).increment(TURNS);
    code.hypercall(N::SET_TIMER_OP, &[1]).hypercall(N::VCPU_OP, &[8, 0, timer]);
    code.hypercall(N::SCHED_OP, &[SchedOp::BLOCK.0]).jump(Condition::Always, again);
    never_ends(&code)
}

/// Timers at the largest and the smallest times, with and without the flag that wants the future: none overflows
/// anything, and none that is far away fires.
fn ends_of_time() -> Result<(), Failed> {
    let mut code = Code::default();
    let request = code.data(&BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: EventPort(0) });
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_VIRQ.0, request]);
    for time in [u64::MAX, u64::MAX - 1, i64::MAX as u64, i64::MIN as u64, 1 << 62] {
        code.hypercall(N::SET_TIMER_OP, &[time]).say();
        for flags in [0, 1, u64::MAX] {
            let at = code.data(&[time, flags]);
            code.hypercall(N::VCPU_OP, &[8, 0, at]).say();
        }
    }
    code.increment(TURNS).hypercall(N::SCHED_OP, &[SchedOp::BLOCK.0]).power_off();
    let host = Host::new()?;
    let guest = host.build(&code)?;
    guest.start()?;
    guest.wait_for(|| guest.peek(TURNS) != 0)?;
    host.canary_goes_on()?;
    check(guest.said() == [0; 20], || format!("{:x?}", guest.said()))?;
    check(matches!(guest.destroy()?, End::Destroyed), || "it did not sleep".into())?;
    host.finish()
}

/// More ports than there are, ports that are none, and arrays that are nowhere are refused; a poll for nothing with
/// a time that is past returns, and one for ever lasts until the domain is ended.
fn endless_poll() -> Result<(), Failed> {
    let mut code = Code::default();
    let ports = code.data(&[u32::MAX, 4096]);
    let poll = |ports: u64, nr_ports: u32, timeout: u64| Poll { ports, nr_ports, padding: 0, timeout };
    let refused = [
        poll(ports, u32::MAX, 1),
        poll(ports, 129, 1),
        poll(ports, 1, 1),
        poll(ports + 4, 1, 1),
        poll(0xdead_0000, 128, 1),
        poll(u64::MAX - 3, 2, 1),
        poll(0x8000_0000_0000, 1, 1),
    ];
    for request in refused {
        let at = code.data(&request);
        code.hypercall(N::SCHED_OP, &[SchedOp::POLL.0, at]).say();
    }
    let at = code.data(&poll(0, 0, 1));
    code.hypercall(N::SCHED_OP, &[SchedOp::POLL.0, at]).say();
    let at = code.data(&poll(0, 0, u64::MAX));
    code.increment(TURNS).hypercall(N::SCHED_OP, &[SchedOp::POLL.0, at]).power_off();

    let host = Host::new()?;
    let guest = host.build(&code)?;
    guest.start()?;
    guest.wait_for(|| guest.peek(TURNS) != 0)?;
    host.canary_goes_on()?;
    let said = guest.said();
    let (refusals, past) = said.split_at(refused.len());
    check(refusals.iter().all(|&result| result as i64 == -14 || result as i64 == -22), || {
        format!("absurd polls: {said:x?}")
    })?;
    check(past == [0], || format!("a poll whose time is over: {past:x?}"))?;
    check(matches!(guest.destroy()?, End::Destroyed), || "it ended by itself".into())?;
    host.finish()
}

/// Nothing will ever wake it but its end.
fn endless_block() -> Result<(), Failed> {
    let mut code = Code::default();
    code.increment(TURNS).hypercall(N::SCHED_OP, &[SchedOp::BLOCK.0]).power_off();
    never_ends(&code)
}

/// Every operation of `memory_op`, for more than there is, thousands of times: it never has more than its maximum.
fn asking_for_memory() -> Result<(), Failed> {
    let mut code = Code::default();
    let mut reservation = frames_at(TABLE, 64);
    let modest = code.data(&reservation);
    (reservation.nr_extents, reservation.extent_order) = (u64::MAX, 63);
    let absurd = code.data(&reservation);
    code.mov(Reg::R12, 100);
    let again = code.here();
    for operation in [0, 6, 11] {
        code.hypercall(N::MEMORY_OP, &[operation, modest]).hypercall(N::MEMORY_OP, &[operation, absurd]);
    }
    code.asm(|a| a.dec(r12)).jump(Condition::NotZero, again);
    for operation in 0..64 {
        code.hypercall(N::MEMORY_OP, &[operation, absurd]);
    }
    code.increment(TURNS).stay();

    let host = Host::new()?;
    let guest = host.build(&code)?;
    let free = host.free_frames();
    guest.start()?;
    guest.wait_for(|| guest.peek(TURNS) != 0)?;
    check(host.free_frames() == free, || format!("{} frames are free, and were {free}", host.free_frames()))?;
    host.canary_goes_on()?;
    // Whoever comes next finds its memory.
    let mut late = Code::default();
    let (end, _) = host.run(late.power_off())?;
    check_power_off(&end)?;
    guest.destroy()?;
    host.finish()
}

/// It gives back pages that it has mapped, which so remain its own, and asks for as many: again and again, it could have
/// all of the machine's memory.
fn keeping_memory() -> Result<(), Failed> {
    const PAGES: u64 = 8;
    let mut code = Code::default();
    let (given, asked) =
        (code.data(&frames_at(TABLE, PAGES)), code.data(&frames_at(TABLE + PAGES * 8, PAGES)));
    code.hypercall(N::MEMORY_OP, &[1, given]).say();
    for operation in [0, 6] {
        code.hypercall(N::MEMORY_OP, &[operation, asked]).say();
    }
    code.increment(TURNS).stay();

    let host = Host::new()?;
    let guest = host.build(&code)?;
    let own: Vec<u64> = (0..PAGES).map(|page| guest.mfn(CODE + page * PAGE_SIZE as u64).0).collect();
    guest.poke(TABLE, &own[..]);
    let free = host.free_frames();
    guest.start()?;
    guest.wait_for(|| guest.peek(TURNS) != 0)?;
    check(guest.said() == [PAGES, 0, 0], || format!("given back, and got: {:?}", guest.said()))?;
    check(host.free_frames() == free, || format!("{} frames are free, and were {free}", host.free_frames()))?;
    host.canary_goes_on()?;
    guest.destroy()?;
    host.finish()
}

fn frames_at(extent_start: u64, nr_extents: u64) -> MemoryReservation {
    let (extent_order, mem_flags, domid, padding) = (0, 0, DomId::SELF, [0; 3]);
    MemoryReservation { extent_start, nr_extents, extent_order, mem_flags, domid, padding }
}
