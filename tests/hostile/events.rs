//! Guests that use up event channels, and those that lie to a back-end.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{CONSOLE_PORT, Code, Condition, FIRST_OWN_PORT, Host, Reg, SCRATCH, check_power_off};
use backends::Disconnect;
use iced_x86::code_asm::{ax, dword_ptr, rax, rbp, rbx, rsi, word_ptr};
use libtest_mimic::{Failed, Trial};
use pv_abi::event_channel::{AllocUnbound, BindIpi, EventChannelOp, PORTS};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::{DomId, EventPort, VcpuId};
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("events/all ports, twice", all_ports),
        kvm_test("events/ports that are nobody's", nobodys_ports),
        kvm_test("events/a console ring that lies", lying_console),
        kvm_test("events/a console that is closed", closed_console),
        kvm_test("events/two that bind and close at once", binding_and_closing),
    ]
}

/// Opens ports until there are no more, closes them all, and does it again: as many are there as before. A canary's
/// ports are its own: it has its store's and its console's, and nothing of this is seen there.
fn all_ports() -> Result<(), Failed> {
    let mut code = Code::default();
    let own = BindIpi { vcpu: VcpuId(0), port: EventPort(0) };
    let request = code.data(&own);
    let closing = code.data(&[0u32]);
    for _ in 0..2 {
        code.mov(Reg::Rbx, 0);
        let open = code.here();
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_IPI.0, request]);
        code.asm(|a| {
            a.inc(rbx)?;
            a.test(rax, rax)
        });
        code.jump(Condition::Zero, open).say().asm(|a| a.mov(rax, rbx)).say();
        // Those behind the store's and the console's.
        code.mov(Reg::Rbx, FIRST_OWN_PORT.into());
        let close = code.here();
        code.store(closing, Reg::Rbx);
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::CLOSE.0, closing]);
        code.asm(|a| a.inc(rbx)).mov(Reg::Rax, PORTS.into());
        code.asm(|a| a.cmp(rbx, rax)).jump(Condition::Below, close);
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    const ENOSPC: u64 = -28i64 as u64;
    // One attempt more than there are ports fails.
    let count = u64::from(PORTS - FIRST_OWN_PORT) + 1;
    check(guest.said() == [ENOSPC, count, ENOSPC, count], || format!("{:x?}", guest.said()))?;
    host.finish()
}

/// Ports beyond the last, of nobody, or of a neighbour cannot be sent to, closed, unmasked or bound.
fn nobodys_ports() -> Result<(), Failed> {
    let mut code = Code::default();
    let mut tried = 0;
    for port in [0, FIRST_OWN_PORT, 77, PORTS - 1, PORTS, u32::MAX] {
        let at = code.data(&[port, 0]);
        for operation in [EventChannelOp::CLOSE, EventChannelOp::SEND, EventChannelOp::BIND_VCPU] {
            code.hypercall(N::EVENT_CHANNEL_OP, &[operation.0, at]).say();
            tried += 1;
        }
        for domain in [1u32, 77, 0, 0x7ff0] {
            // The canary is domain 1; its port 1 is for the host domain only.
            let at = code.data(&[domain, port, 0]);
            code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_INTERDOMAIN.0, at]).say();
            tried += 1;
        }
    }
    let at = code.data(&[1u32, 1, 0]);
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_INTERDOMAIN.0, at]).say();
    // For another domain than itself.
    let request = AllocUnbound { dom: DomId(1), remote_dom: DomId::SELF, port: EventPort(0) };
    let at = code.data(&request);
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::ALLOC_UNBOUND.0, at]).say();
    tried += 2;
    // More to a vCPU that there is not, and a virtual interrupt that there is not.
    for (operation, words) in [(1, [24u32, 0, 0]), (1, [0, 7, 0]), (7, [9, 0, 0]), (8, [1, 9, 0])] {
        let at = code.data(&words);
        code.hypercall(N::EVENT_CHANNEL_OP, &[operation, at]).say();
        tried += 1;
    }
    code.increment(SCRATCH).power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    let refused = said.iter().all(|&result| (-4095..0).contains(&(result as i64)));
    check(said.len() == tried && refused, || {
        format!("{:?}", said.iter().map(|&w| w as i64).collect::<Vec<_>>())
    })?;
    host.finish()
}

/// The indices of the console's ring, in its page, which is two pages behind start_info.
const IN_CONS: u32 = 3072;
const IN_PROD: u32 = 3076;
const OUT_CONS: u32 = 3080;
const OUT_PROD: u32 = 3084;

/// Each index of the console's ring is set to values that cannot be. The back-end lets go of a front-end that lies
/// about its own indices; the others are not its to set, and nobody reads them.
fn lying_console() -> Result<(), Failed> {
    let host = Host::new()?;
    for (index, own) in [(IN_CONS, true), (IN_PROD, false), (OUT_CONS, false), (OUT_PROD, true)] {
        for lie in [2049, 1 << 31, 0xffff_0000] {
            let code = liar(index, lie);
            let guest = host.build(&code)?;
            let console = guest.connect_console()?;
            guest.start()?;
            guest.wait_until_parked()?;
            let end = console.finish();
            let disconnected = matches!(end, Some(Err(Disconnect::Protocol(_))));
            let served = matches!(end, Some(Ok(_)));
            check(if own { disconnected } else { served }, || format!("{lie:#x} at {index}: {end:?}"))?;
            guest.destroy()?;
        }
    }
    host.finish()
}

/// Sets an index of its console's ring, found by start_info (RSI), and notifies the back-end.
fn liar(index: u32, lie: u32) -> Code {
    let mut code = Code::default();
    code.asm(|a| a.mov(dword_ptr(rsi + (2 * 4096 + index)), lie));
    let port = code.data(&CONSOLE_PORT);
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, port]).park();
    code
}

/// A guest closes its end of the console's channel, again and again, while the back-end has something to tell it.
fn closed_console() -> Result<(), Failed> {
    let mut code = Code::default();
    let port = code.data(&CONSOLE_PORT);
    code.asm(|a| a.mov(rbp, rsi)).mov(Reg::Rbx, 500); // start_info
    let again = code.here();
    // Output for the back-end, which answers it.
    code.asm(|a| a.inc(dword_ptr(rbp + (2 * 4096 + OUT_PROD))));
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, port]);
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::CLOSE.0, port]);
    code.asm(|a| a.dec(rbx)).jump(Condition::NotZero, again).park();
    let host = Host::new()?;
    let guest = host.build(&code)?;
    let console = guest.connect_console()?;
    guest.start()?;
    guest.wait_until_parked()?;
    check(console.finish().is_some(), || "the back-end is gone".into())?;
    guest.destroy()?;
    host.finish()
}

/// Two guests on two pcpus. One opens ports for the other and closes them, the other binds to them, rings and
/// closes, with no regard for each other; and each of them is ended in the middle of it.
fn binding_and_closing() -> Result<(), Failed> {
    const PORTS: u64 = 8;
    let host = Host::with_pcpus(2)?;
    for round in 0..12u64 {
        let guests = [host.build(&opening())?, host.build(&binding(PORTS))?];
        let numbers = guests.each_ref().map(|guest| guest.domain.id());
        // Each names the other: see `OTHER`.
        guests[0].poke(OTHER, &numbers[1]);
        guests[1].poke(OTHER, &numbers[0]);
        guests.iter().try_for_each(|guest| guest.start())?;
        std::thread::sleep(Duration::from_millis(2 + round));
        let (first, second) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        guests[first].destroy()?;
        std::thread::sleep(Duration::from_millis(1));
        check(!guests[second].domain.life().has_ended(), || "the other one ended, too".into())?;
        guests[second].destroy()?;
        host.canary_goes_on()?;
    }
    host.finish()
}

/// Where a guest finds the number of the other.
const OTHER: u64 = SCRATCH + 0x800;

/// Opens eight ports for the other and closes them, for ever.
fn opening() -> Code {
    let mut code = Code::default();
    let request = code.data(&AllocUnbound { dom: DomId::SELF, remote_dom: DomId(0), port: EventPort(0) });
    let closing = code.data(&[0u32]);
    code.load(Reg::Rax, OTHER).asm(|a| a.mov(word_ptr(request + 2), ax));
    let again = code.here();
    for _ in 0..8 {
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::ALLOC_UNBOUND.0, request]);
    }
    for port in FIRST_OWN_PORT..FIRST_OWN_PORT + 8 {
        code.set(closing, port.into()).hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, closing]);
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::CLOSE.0, closing]);
    }
    code.jump(Condition::Always, again);
    code
}

/// Binds to the other's ports, rings them and closes its own, for ever.
fn binding(ports: u64) -> Code {
    let mut code = Code::default();
    let requests: Vec<u64> = (u64::from(FIRST_OWN_PORT)..u64::from(FIRST_OWN_PORT) + ports)
        .map(|port| {
            let at = code.data(&[0u32, port as u32, 0]);
            code.load(Reg::Rax, OTHER).asm(|a| a.mov(word_ptr(at), ax));
            at
        })
        .collect();
    let again = code.here();
    for at in requests {
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_INTERDOMAIN.0, at]);
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, at + 8]);
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::STATUS.0, at]);
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::CLOSE.0, at + 8]);
    }
    code.jump(Condition::Always, again);
    code
}
