//! Guests that ring: at their own doorbells, at others', at none, and in ways that are no ringing. What a back-end hears is
//! what its guest rang at its own port.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{
    CONSOLE_PORT, Code, Condition, Ear, FIRST_OWN_PORT, Guest, Host, NONE, Reg, STORE_PORT, UNMAPPED,
};
use hypervisor::machine::DOORBELL_ADDRESS;
use iced_x86::code_asm::{dword_ptr, eax, rbx};
use libtest_mimic::{Failed, Trial};
use pv_abi::event_channel::{AllocUnbound, BindIpi, EventChannelOp};
use pv_abi::extension::{Doorbell, ExtensionOp, HYPERCALL_NUMBER};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::{DomId, EventPort, PAGE_SIZE, VcpuId};
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("doorbells/each rings its own back-end", own),
        kvm_test("doorbells/of ports that have none", unfit),
        kvm_test("doorbells/other accesses than to ring", odd_accesses),
        kvm_test("doorbells/of another domain", anothers),
        kvm_test("doorbells/of a domain without a page", without_page),
        kvm_test("doorbells/after the end", after_the_end),
        kvm_test("doorbells/asking ten thousand times", asking_on),
        kvm_test("doorbells/that come and go while they are rung", coming_and_going),
    ]
}

/// Asks for a doorbell of what `port` says; the answer is there, and the result in RAX.
fn ask_at(code: &mut Code, at: u64) -> &mut Code {
    code.hypercall(N(HYPERCALL_NUMBER), &[ExtensionOp::DOORBELL.0, at])
}

/// Asks for a doorbell of `port`, and says the result, the value and the address.
fn ask(code: &mut Code, port: EventPort) {
    let at = code.data(&Doorbell { port, value: 0, address: 0 });
    ask_at(code, at).say();
    code.asm(|a| a.mov(eax, dword_ptr(at + 4))).say();
    code.load(Reg::Rax, at + 8).say();
}

/// What a guest says of an answer that gives it a doorbell: the result, the value to store, and the address.
fn answer(port: EventPort) -> [u64; 3] {
    [0, port.0.into(), DOORBELL_ADDRESS]
}

/// Stores 4 bytes where domains ring.
fn ring(code: &mut Code, value: u64) {
    code.mov(Reg::Rax, value).asm(|a| a.mov(dword_ptr(DOORBELL_ADDRESS), eax));
}

fn heard(ears: &[Ear]) -> Vec<bool> {
    ears.iter().map(Ear::heard).collect()
}

fn unheard(ears: &[Ear], after: &str) -> Result<(), Failed> {
    let heard = heard(ears);
    check(!heard.contains(&true), || format!("{after}: {heard:?}"))
}

/// Runs a guest until it has parked, and says what it said.
fn park(guest: &Guest, code: &str) -> Result<Vec<u64>, Failed> {
    guest.start()?;
    guest.wait_until_parked().map_err(|error| format!("{code}: {error:?}"))?;
    Ok(guest.said())
}

/// Two ports with a back-end each. Rings at the one are heard there and not at the other, and none leaves the machine.
fn own() -> Result<(), Failed> {
    const RINGS: u64 = 1000;
    let host = Host::new()?;
    for (rung, silent) in [(CONSOLE_PORT, STORE_PORT), (STORE_PORT, CONSOLE_PORT)] {
        let mut code = Code::default();
        ask(&mut code, rung);
        ask(&mut code, silent);
        code.mov(Reg::Rbx, RINGS);
        let again = code.here();
        ring(&mut code, rung.0.into());
        code.asm(|a| a.dec(rbx)).jump(Condition::NotZero, again).park();
        let guest = host.build(&code)?;
        let ears = [guest.listen(rung)?, guest.listen(silent)?];
        let said = park(&guest, "ringing")?;
        check(said == [answer(rung), answer(silent)].concat(), || format!("{said:x?}"))?;
        check(heard(&ears) == [true, false], || format!("not {rung:?} alone was rung"))?;
        let exits: u64 = guest.domain.statistics().snapshot().exits.iter().map(|(_, count)| count).sum();
        let others = guest.exits("kicked");
        check(exits - others < RINGS / 2, || format!("{exits} exits for {RINGS} rings"))?;
        guest.destroy()?;
    }
    host.finish()
}

/// Ports that are closed, unbound, not for back-ends, or beyond the last; answers that cannot be stored. Then each
/// number is rung.
fn unfit() -> Result<(), Failed> {
    let host = Host::new()?;
    let mut code = Code::default();
    let ipi = code.data(&BindIpi { vcpu: VcpuId(0), port: EventPort(0) });
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_IPI.0, ipi]);
    let unbound = AllocUnbound { dom: DomId::SELF, remote_dom: DomId(1), port: EventPort(0) };
    let unbound = code.data(&unbound);
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::ALLOC_UNBOUND.0, unbound]);
    let ports = [0, STORE_PORT.0, FIRST_OWN_PORT, FIRST_OWN_PORT + 1, 77, 4095, 4096, u32::MAX];
    for port in ports {
        let at = code.data(&Doorbell { port: EventPort(port), value: 0, address: 0 });
        ask_at(&mut code, at).say();
    }
    let wild = [0, UNMAPPED, UNMAPPED - 8, DOORBELL_ADDRESS, 0xffff_8100_0000_0000, 1 << 63];
    for at in wild {
        ask_at(&mut code, at).say();
    }
    for value in ports.into_iter().chain([CONSOLE_PORT.0]) {
        ring(&mut code, value.into());
    }
    code.park();
    let guest = host.build(&code)?;
    let ears = [guest.listen(CONSOLE_PORT)?];
    let said = park(&guest, "asking for what is not there")?;
    let expected = [[-22i64 as u64; 8].as_slice(), &[-14i64 as u64; 6]].concat();
    check(said == expected, || format!("{said:x?}"))?;
    unheard(&ears, "nobody has asked for its doorbell")?;
    check(guest.exits("unanswered") == 9, || format!("{:?}", guest.domain.statistics().snapshot()))?;
    guest.destroy()?;
    host.finish()
}

/// Wrong sizes, places, values and instructions, at a doorbell that hangs. A ring of a value that is nobody's is ignored,
/// anything else is a fault.
fn odd_accesses() -> Result<(), Failed> {
    let host = Host::new()?;
    let own = u64::from(CONSOLE_PORT.0);
    let mut code = Code::default();
    code.catch_faults();
    ask(&mut code, CONSOLE_PORT);
    let faults: [(u64, &[u8]); 16] = [
        (0, &[0x88, 0x07]),                          // 1 byte
        (0, &[0x66, 0x89, 0x07]),                    // 2 bytes
        (0, &[0x48, 0x89, 0x07]),                    // 8 bytes
        (4, &[0x89, 0x07]),                          // beside it
        (1, &[0x89, 0x07]),                          // not aligned
        (0xffc, &[0x89, 0x07]),                      // at the page's end
        (0xffc, &[0x48, 0x89, 0x07]),                // across it
        (0u64.wrapping_sub(2), &[0x89, 0x07]),       // across its start
        (0u64.wrapping_sub(4), &[0x48, 0x89, 0x07]), // the same, with a whole ring
        (PAGE_SIZE as u64, &[0x89, 0x07]),           // the page behind
        (0, &[0x8b, 0x07]),                          // a load
        (4, &[0x87, 0x07]),                          // an exchange beside it
        (0, &[0x0f, 0x11, 0x07]),                    // a vector
        (0, &[0x48, 0xab]),                          // a string of 8 bytes
        (4, &[0xb9, 4, 0, 0, 0, 0xf3, 0xab]),        // a string beside it
        (0, &[0xff, 0xe7]),                          // a jump
    ];
    for (offset, instruction) in faults {
        code.mov(Reg::Rdi, DOORBELL_ADDRESS.wrapping_add(offset)).attempt(own, instruction);
    }
    let values = [0, own + 1, own | 1 << 31, u64::from(STORE_PORT.0), 0xffff_ffff];
    for value in values {
        code.mov(Reg::Rdi, DOORBELL_ADDRESS).attempt(value, &[0x89, 0x07]);
    }
    code.park();
    let guest = host.build(&code)?;
    let ears = [guest.listen(CONSOLE_PORT)?, guest.listen(STORE_PORT)?];
    let said = park(&guest, "odd accesses")?;
    let (answered, arrived) = said.split_at(3);
    check(answered == answer(CONSOLE_PORT), || format!("{answered:x?}"))?;
    let (faulted, ignored) = arrived.split_at(faults.len());
    let faulted_each = faulted.iter().all(|vector| matches!(vector, 6 | 13 | 14));
    check(faulted_each && ignored == [NONE; 5], || format!("{faulted:?} {ignored:x?}"))?;
    unheard(&ears, "odd accesses")?;
    check(guest.exits("unanswered") == values.len() as u64, || "ignored, and counted".into())?;
    guest.destroy()?;
    host.finish()
}

/// A neighbour has a doorbell of the same port, at the same address. One that has none rings there, and around.
fn anothers() -> Result<(), Failed> {
    let host = Host::new()?;
    let own = u64::from(CONSOLE_PORT.0);
    let mut neighbour = Code::default();
    ask(&mut neighbour, CONSOLE_PORT);
    neighbour.park();
    let neighbour = host.build(&neighbour)?;
    let ears = [neighbour.listen(CONSOLE_PORT)?];
    check(park(&neighbour, "the neighbour")? == answer(CONSOLE_PORT), || "it has no doorbell".into())?;
    for asks in [false, true] {
        let mut code = Code::default();
        code.catch_faults();
        if asks {
            ask(&mut code, STORE_PORT);
        }
        for page in -32..32i64 {
            let address = DOORBELL_ADDRESS.wrapping_add_signed(page * PAGE_SIZE as i64);
            code.mov(Reg::Rdi, address).attempt(own, &[0x89, 0x07]);
        }
        code.park();
        let guest = host.build(&code)?;
        let _store = guest.listen(STORE_PORT)?;
        let said = park(&guest, "ringing at a neighbour's")?;
        let arrived = &said[if asks { 3 } else { 0 }..];
        check(arrived.iter().filter(|&&what| what == NONE).count() == 1, || format!("{arrived:x?}"))?;
        unheard(&ears, "a stranger has rung")?;
        guest.destroy()?;
    }
    neighbour.destroy()?;
    host.finish()
}

/// All pages are in use: there is nothing at the address, and a doorbell is refused.
fn without_page() -> Result<(), Failed> {
    let host = Host::new()?;
    let mmu = &host.hypervisor.services().mmu;
    let mut code = Code::default();
    code.catch_faults();
    let at = code.data(&Doorbell { port: CONSOLE_PORT, value: 0, address: 0 });
    ask_at(&mut code, at).say();
    code.mov(Reg::Rdi, DOORBELL_ADDRESS).attempt(CONSOLE_PORT.0.into(), &[0x89, 0x07]).park();
    // Numbers of domains that there are not.
    let others: Vec<DomId> =
        (0..mmu.layout().doorbell_pages.len() as u16).map(|n| DomId(0x1000 + n)).collect();
    others.iter().for_each(|&domain| mmu.give_doorbell_page(domain));
    let guest = host.build(&code)?;
    others.iter().for_each(|&domain| mmu.take_doorbell_page(domain));
    let ears = [guest.listen(CONSOLE_PORT)?];
    let said = park(&guest, "without a page")?;
    check(said == [-19i64 as u64, 14], || format!("{said:x?}"))?;
    unheard(&ears, "there is no page")?;
    guest.destroy()?;
    host.finish()
}

/// The guest rings on after the back-end has let go, after another has come, and after it has closed the port itself.
fn after_the_end() -> Result<(), Failed> {
    let host = Host::new()?;
    let own = u64::from(CONSOLE_PORT.0);
    let closing = |asks_again: bool, closes: bool| {
        let mut code = Code::default();
        ask(&mut code, CONSOLE_PORT);
        let step = code.data(&0u64);
        // Waits until the test has gone on.
        code.increment(step);
        let wait = code.here();
        code.mov(Reg::Rax, 2).compare(step).jump(Condition::NotZero, wait);
        if closes {
            let port = code.data(&CONSOLE_PORT);
            code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::CLOSE.0, port]).say();
        }
        if asks_again {
            ask(&mut code, CONSOLE_PORT);
        }
        ring(&mut code, own);
        code.park();
        (code, step)
    };
    for (comes_again, asks_again, closes) in
        [(false, false, false), (true, false, false), (true, true, false), (false, false, true)]
    {
        let (code, step) = closing(asks_again, closes);
        let guest = host.build(&code)?;
        let first = guest.listen(CONSOLE_PORT)?;
        guest.start()?;
        guest.wait_for(|| guest.peek(step) == 1)?;
        let mut ears = vec![first];
        if !closes {
            ears.clear();
        }
        if comes_again {
            ears.push(guest.listen(CONSOLE_PORT)?);
        }
        guest.poke(step, &2u64);
        guest.wait_until_parked()?;
        let case = format!("{comes_again} {asks_again} {closes}");
        check(heard(&ears).contains(&true) == asks_again, || format!("{case}: not as it was asked for"))?;
        check(guest.exits("unanswered") == u64::from(!asks_again), || format!("{case}: it is gone"))?;
        guest.destroy()?;
    }
    host.finish()
}

/// There is one doorbell afterwards, and none when the guest has gone: the machine has room for as many guests as come.
fn asking_on() -> Result<(), Failed> {
    let host = Host::new()?;
    let mut code = Code::default();
    let at = code.data(&Doorbell { port: CONSOLE_PORT, value: 0, address: 0 });
    code.mov(Reg::Rbx, 10_000);
    let again = code.here();
    ask_at(&mut code, at).asm(|a| a.dec(rbx)).jump(Condition::NotZero, again);
    ask(&mut code, CONSOLE_PORT);
    ring(&mut code, CONSOLE_PORT.0.into());
    code.park();
    for _ in 0..2 {
        let guest = host.build(&code)?;
        let ears = [guest.listen(CONSOLE_PORT)?];
        let said = park(&guest, "asking on")?;
        check(said == answer(CONSOLE_PORT) && heard(&ears) == [true], || format!("{said:x?}"))?;
        guest.destroy()?;
    }
    host.finish()
}

/// A guest asks and rings without pause, while its back-end comes and goes, and it is ended in the middle of it.
fn coming_and_going() -> Result<(), Failed> {
    let host = Host::with_pcpus(2)?;
    let mut code = Code::default();
    let at = code.data(&Doorbell { port: CONSOLE_PORT, value: 0, address: 0 });
    let again = code.here();
    ask_at(&mut code, at);
    (0..20).for_each(|_| ring(&mut code, CONSOLE_PORT.0.into()));
    code.increment(crate::tiny_guest::SCRATCH).jump(Condition::Always, again);
    for _ in 0..4 {
        let guest = host.build(&code)?;
        guest.start()?;
        for round in 0..20 {
            let ear = guest.listen(CONSOLE_PORT)?;
            guest.wait_for(|| ear.heard())?;
            std::thread::sleep(Duration::from_micros(round * 50));
            drop(ear);
        }
        let before = guest.peek(crate::tiny_guest::SCRATCH);
        guest.wait_for(|| guest.peek(crate::tiny_guest::SCRATCH) > before + 1)?;
        guest.destroy()?;
        host.canary_goes_on()?;
    }
    host.finish()
}
