//! Two busy domains share a pcpu evenly, whatever they are busy with, and on however many vCPUs.

use crate::clock::{SHARED, map_shared, poke_shared};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, FIRST_OWN_PORT, Guest, Host, Reg, STACK, TABLE, VCPUS};
use iced_x86::code_asm::qword_ptr;
use libtest_mimic::{Failed, Trial};
use pv_abi::event_channel::{BindIpi, EventChannelOp};
use pv_abi::guest_context::{GuestContext, GuestContextFlags};
use pv_abi::hypercall::{HypercallNumber as N, MulticallEntry};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use pv_abi::sched::{Poll, SchedOp};
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::shared_info::SharedInfo;
use pv_abi::vcpu::VcpuOp;
use pv_abi::{EventPort, VcpuId};
use std::mem::offset_of;
use std::time::Duration;
use zerocopy::FromZeros;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("share/with one that computes", || even(&spinning(), Duration::from_secs(2))),
        kvm_test("share/with one that traps", || even(&trapping(), Duration::from_secs(1))),
        kvm_test("share/with one that makes hypercalls", || even(&calling(), Duration::from_secs(1))),
        kvm_test("share/with one of four vCPUs", with_one_of_four_vcpus),
        kvm_test("share/with one whose vCPUs wake each other", with_one_whose_vcpus_wake_each_other),
        kvm_test("share/with one that flushes in long batches", || even(&flushing(), Duration::from_secs(1))),
    ]
}

fn spinning() -> Code {
    let mut code = Code::default();
    code.stay();
    code
}

fn trapping() -> Code {
    let mut code = Code::default();
    code.catch_faults();
    let again = code.here();
    code.resume_at(again).asm(|a| a.ud2());
    code
}

fn calling() -> Code {
    let mut code = Code::default();
    let again = code.here();
    code.hypercall(N::XEN_VERSION, &[0, 0]).jump(Condition::Always, again);
    code
}

/// One hypercall of a thousand operations, again and again, of which each is short; and multicalls of such.
fn flushing() -> Code {
    let mut code = Code::default();
    let flushes = code.data(&[MmuExtOp::new(MmuExtCommand::TLB_FLUSH_ALL, 0); 1000]);
    let batch = MulticallEntry { op: N::MMUEXT_OP.0, result: 0, args: [flushes, 1000, 0, 0x7ff0, 0, 0] };
    let batches = code.data(&[batch; 60]);
    let again = code.here();
    code.hypercall(N::MULTICALL, &[batches, 60]).mov(Reg::Rbx, 0).jump(Condition::Always, again);
    code
}

/// All of its vCPUs compute: that makes it no more than one domain.
fn with_one_of_four_vcpus() -> Result<(), Failed> {
    let mut code = Code::default();
    for vcpu in 1..u64::from(VCPUS) {
        code.hypercall(N::VCPU_OP, &[VcpuOp::INITIALISE.0, vcpu, CONTEXTS]).say();
        code.hypercall(N::VCPU_OP, &[VcpuOp::UP.0, vcpu]).say();
    }
    let compute = code.here();
    code.stay();
    of_several_vcpus(&code, compute, 6, |_| ())
}

/// One of its two vCPUs sleeps at any time, and each for most of it: as a domain it never does.
fn with_one_whose_vcpus_wake_each_other() -> Result<(), Failed> {
    let mut code = Code::default();
    let entry = map_shared(&mut code);
    let ports = [0, 1].map(|vcpu| {
        let request = code.data(&BindIpi { vcpu: VcpuId(vcpu), port: EventPort(0) });
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_IPI.0, request]).say();
        request + offset_of!(BindIpi, port) as u64
    });
    code.hypercall(N::VCPU_OP, &[VcpuOp::INITIALISE.0, 1, CONTEXTS]).say();
    code.hypercall(N::VCPU_OP, &[VcpuOp::UP.0, 1]).say();
    let mut second = 0;
    for [own, other] in [[0, 1], [1, 0]] {
        let poll = code.data(&Poll { ports: ports[own], nr_ports: 1, padding: 0, timeout: 0 });
        let again = code.here();
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, ports[other]]);
        code.hypercall(N::SCHED_OP, &[SchedOp::POLL.0, poll]);
        let word = SHARED + offset_of!(SharedInfo, evtchn_pending) as u64;
        code.asm(|a| a.lock().btr(qword_ptr(word), FIRST_OWN_PORT + own as u32));
        code.jump(Condition::Always, again);
        second = again;
    }
    of_several_vcpus(&code, second, 4, |guest| poke_shared(guest, entry))
}

/// Runs a domain, whose further vCPUs start at `rip`, beside one that computes. It says that so many calls succeeded.
fn of_several_vcpus(code: &Code, rip: u64, calls: usize, prepare: impl Fn(&Guest)) -> Result<(), Failed> {
    let host = Host::bare()?;
    let guest = host.build(code)?;
    guest.poke(CONTEXTS, &*context(&guest, rip));
    prepare(&guest);
    let guests = [guest, host.build(&spinning())?];
    share(&guests, Duration::from_secs(2))?;
    let said = guests[0].said();
    check(said == vec![0; calls], || format!("its vCPUs did not start: {said:x?}"))?;
    host.finish()
}

/// Where a further vCPU's first context lies.
const CONTEXTS: u64 = TABLE + 0x4_0000;

/// The context of a further vCPU, which starts at `rip`.
fn context(guest: &Guest, rip: u64) -> Box<GuestContext> {
    let mut first = GuestContext::new_box_zeroed().expect("memory");
    first.flags = GuestContextFlags::IN_KERNEL.bits();
    (first.user_regs.rip, first.user_regs.rsp) = (rip, STACK);
    (first.user_regs.cs, first.user_regs.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
    first.ctrlreg[3] = guest.built.root.0 << 12;
    first
}

/// Runs a domain beside one that computes. Each gets about half of the time.
fn even(code: &Code, time: Duration) -> Result<(), Failed> {
    let host = Host::bare()?;
    share(&[host.build(code)?, host.build(&spinning())?], time)?;
    host.finish()
}

/// Runs two domains, of which each gets about half of the time.
fn share(guests: &[Guest; 2], time: Duration) -> Result<(), Failed> {
    guests.iter().try_for_each(|guest| guest.start())?;
    std::thread::sleep(time);
    let times = guests.each_ref().map(|guest| guest.domain.statistics().snapshot().time);
    guests.iter().try_for_each(|guest| guest.destroy().map(drop))?;
    let percent = times[0] * 100 / (times[0] + times[1]);
    check((35..=65).contains(&percent), || format!("it got {percent} %: {times:?} ns"))
}
