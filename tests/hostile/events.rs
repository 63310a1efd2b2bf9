//! Guests that use up event channels, and those that lie to a back-end.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, Host, Reg, SCRATCH, check_power_off};
use libtest_mimic::{Failed, Trial};
use pv_abi::event_channel::{AllocUnbound, BindIpi, EventChannelOp, PORTS};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::{DomId, EventPort, VcpuId};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("events/all ports, twice", all_ports),
        kvm_test("events/ports that are nobody's", nobodys_ports),
    ]
}

/// Opens ports until there are no more, closes them all, and does it again: as many are there as before. A canary's
/// ports are its own: it has its console's and nothing of this is seen there.
fn all_ports() -> Result<(), Failed> {
    let mut code = Code::default();
    let own = BindIpi { vcpu: VcpuId(0), port: EventPort(0) };
    let request = code.data(&own);
    let closing = code.data(&[0u32]);
    for _ in 0..2 {
        code.mov(Reg::Rbx, 0);
        let open = code.here();
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_IPI.0, request]);
        // inc rbx; test rax, rax; jz open
        code.raw(&[0x48, 0xff, 0xc3, 0x48, 0x85, 0xc0]).jump(Condition::Zero, open);
        code.say().raw(&[0x48, 0x89, 0xd8]).say(); // mov rax, rbx
        // Ports 2 and up: 1 is the console's.
        code.mov(Reg::Rbx, 2);
        let close = code.here();
        code.store(closing, Reg::Rbx);
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::CLOSE.0, closing]);
        code.raw(&[0x48, 0xff, 0xc3]).mov(Reg::Rax, PORTS.into());
        code.raw(&[0x48, 0x39, 0xc3]).jump(Condition::Below, close); // cmp rbx, rax
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    const ENOSPC: u64 = -28i64 as u64;
    // Port 0 is none, port 1 the console's, and one attempt more than there are ports fails.
    let count = u64::from(PORTS) - 2 + 1;
    check(guest.said() == [ENOSPC, count, ENOSPC, count], || format!("{:x?}", guest.said()))?;
    host.finish()
}

/// Ports beyond the last, of nobody, or of a neighbour cannot be sent to, closed, unmasked or bound.
fn nobodys_ports() -> Result<(), Failed> {
    let mut code = Code::default();
    let mut tried = 0;
    for port in [0, 2, 77, PORTS - 1, PORTS, u32::MAX] {
        let at = code.data(&[port, 0]);
        for operation in [EventChannelOp::CLOSE, EventChannelOp::SEND, EventChannelOp::BIND_VCPU] {
            code.hypercall(N::EVENT_CHANNEL_OP, &[operation.0, at]).say();
            tried += 1;
        }
        for domain in [1u32, 77, 0, 0x7ff0] {
            // The canary is domain 1; its port 1 is for its own console only.
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
