//! What a guest leaves behind for the next one.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, FIRST_OWN_PORT, Host, Reg, TABLE, check_power_off};
use iced_x86::code_asm::eax;
use libtest_mimic::{Failed, Trial};
use pv_abi::event_channel::{BindIpi, BindVirq, EventChannelOp as Op, Virq};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::{DomId, EventPort, PAGE_SIZE, VcpuId};

pub fn tests() -> Vec<Trial> {
    vec![kvm_test("reuse/of a domain's number inherits nothing", of_a_number)]
}

/// The first ports that a guest can open.
const PORTS: std::ops::Range<u32> = FIRST_OWN_PORT..FIRST_OWN_PORT + 8;

/// A guest opens ports and makes them pending, says something and fills memory, and is ended. The next
/// one of the same number has none of that.
fn of_a_number() -> Result<(), Failed> {
    let host = Host::new()?;
    let mut leaving = Code::default();
    let ipi = leaving.data(&BindIpi { vcpu: VcpuId(0), port: EventPort(0) });
    let virq = leaving.data(&BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: EventPort(0) });
    leaving.hypercall(N::EVENT_CHANNEL_OP, &[Op::BIND_VIRQ.0, virq]).say();
    for port in PORTS.skip(1) {
        let sent = leaving.data(&[port]);
        leaving.hypercall(N::EVENT_CHANNEL_OP, &[Op::BIND_IPI.0, ipi]);
        leaving.hypercall(N::EVENT_CHANNEL_OP, &[Op::SEND.0, sent]);
    }
    leaving.mov(Reg::Rdi, TABLE).mov(Reg::Rcx, 0x1_0000 / 8).mov(Reg::Rax, u64::from_le_bytes(*b"a secret"));
    leaving.asm(|a| a.rep().stosq()).park();
    let first = host.build(&leaving)?;
    let id = first.domain.id();
    first.start()?;
    first.wait_until_parked()?;
    let pending =
        |guest: &crate::tiny_guest::Guest, port: u32| guest.domain.shared().is_pending(EventPort(port));
    check(PORTS.skip(1).all(|port| pending(&first, port)), || "nothing was pending".into())?;
    check(first.said() == [0], || format!("{:x?}", first.said()))?;
    let frames: Vec<_> = first.frames().to_vec();
    first.destroy()?;

    // All other numbers are given before this one comes up again.
    let domains = &host.hypervisor.services().domains;
    while domains.next_id(|_| true) != Some(DomId(DomId::FIRST_RESERVED.0 - 1)) {}
    let mut looking = Code::default();
    for port in 1..PORTS.end {
        let at = looking.data(&[0x7ff0u32, port, 0, 0, 0, 0]);
        looking.hypercall(N::EVENT_CHANNEL_OP, &[Op::STATUS.0, at]).load(Reg::Rax, at + 8).say();
    }
    // Every word of what the first one filled.
    looking.mov(Reg::Rdi, TABLE).mov(Reg::Rcx, 0x1_0000 / 8).asm(|a| {
        a.xor(eax, eax)?;
        a.repe().scasq()
    });
    looking.mov(Reg::Rax, 0);
    let behind = looking.here() + 6 + 10;
    looking.jump(Condition::Zero, behind).mov(Reg::Rax, 1).say().power_off();
    let second = host.build(&looking)?;
    check(second.domain.id() == id, || format!("it is {}", second.domain.id()))?;
    let mfns = second.frames().iter().filter(|mfn| frames.contains(mfn)).count();
    check(mfns > 0, || "it has none of the first one's frames".into())?;
    let stale = (0..PORTS.end).find(|&port| pending(&second, port));
    check(stale.is_none() && second.said().is_empty(), || format!("{stale:?} is pending"))?;
    let mut bits = [0; 1024];
    second.memory().read(second.domain.shared().frame(), 2048, &mut bits)?;
    check(bits == [0; 1024], || "ports are pending or masked".into())?;
    let untouched = second.frames().iter().rev().take(256).chain([&second.built.console]);
    let mut bytes = [0; PAGE_SIZE];
    for mfn in untouched {
        second.memory().read(*mfn, 0, &mut bytes)?;
        check(bytes == [0; PAGE_SIZE], || format!("{mfn} is not scrubbed"))?;
    }
    second.start()?;
    check_power_off(&second.wait()?)?;
    let said = second.said();
    let (ports, memory) = said.split_at(said.len().saturating_sub(1));
    // The first ones wait for the guest's back-ends; the others are closed.
    check(memory == [0], || "memory holds something".into())?;
    let states: Vec<u32> = ports.iter().map(|&state| state as u32).collect();
    let (own, others) = states.split_at(FIRST_OWN_PORT as usize - 1);
    check(own.iter().all(|&state| state == 1) && others.iter().all(|&state| state == 0), || {
        format!("{states:?}")
    })?;
    host.finish()
}
