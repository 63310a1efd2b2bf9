//! Guests whose addresses lead nowhere: of jumps, stacks, handlers and callbacks.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Host, Reg, STACK, UNMAPPED, check_crash, check_power_off, trap};
use hypervisor::domain::End;
use libtest_mimic::{Failed, Trial};
use pv_abi::event_channel::{BindIpi, EventChannelOp};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use pv_abi::sched::SchedOp;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::{IretContext, TrapInfo};
use pv_abi::{EventPort, VcpuId};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("addresses/jumps", jumps),
        kvm_test("addresses/stacks at traps", stacks_at_traps),
        kvm_test("addresses/stacks at upcalls", stacks_at_upcalls),
        kvm_test("addresses/stacks for traps from user mode", stacks_from_user_mode),
        kvm_test("addresses/handlers", handlers),
        kvm_test("addresses/selectors of handlers", selectors_of_handlers),
        kvm_test("addresses/callbacks", callbacks),
        kvm_test("addresses/segment bases", segment_bases),
    ]
}

const NOT_CANONICAL: [u64; 4] =
    [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 0x7000_0000_0000_0000, 0xdead_beef_dead_beef];
/// The hypervisor's, and nobody's.
const FOREIGN: [u64; 8] = [
    0,
    UNMAPPED,
    0x7fff_ffff_fff0,
    0xffff_8080_0000_0000,
    0xffff_8080_0000_2000,
    0xffff_8100_0000_0000,
    0xffff_8180_0000_0000,
    0xffff_ffff_ffff_fff0,
];
/// The lowest page of the guest's: a stack that starts here ends soon.
const BOTTOM: u64 = CODE - 0x10_0000;
/// `syscall` lands there; on some hosts a guest can go there by itself, which is a `syscall` then.
const LSTAR: u64 = 0xffff_8080_0000_1000;

fn foreign_and_not_canonical() -> impl Iterator<Item = u64> {
    FOREIGN.into_iter().chain(NOT_CANONICAL)
}

/// The same for what lies below an address.
fn wild_stacks() -> impl Iterator<Item = u64> {
    foreign_and_not_canonical().filter(|&address| address != UNMAPPED).chain([8, UNMAPPED + 0x1000])
}

/// `jmp` and `ret` to addresses where no code can be.
fn jumps() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    for address in foreign_and_not_canonical() {
        code.attempt(address, &[0xff, 0xe0]); // jmp rax
        code.attempt(address, &[0x50, 0xc3]); // push rax; ret
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said.len() == 24 && said.iter().all(|vector| matches!(vector, 13 | 14)), || format!("{said:x?}"))?;
    host.finish()
}

/// What happens to a kernel whose stack is at `stack` when `code` runs on it.
fn crash_on_stack(host: &Host, code: &Code, what: &str) -> Result<(), Failed> {
    let (end, _) = host.run(code)?;
    check_crash(&end, "cannot be written").map_err(|error| format!("{what}: {error:?}").into())
}

/// A frame that cannot be written ends the domain, and is written nowhere else: not over the hypervisor's memory,
/// and not over a page table of its own.
fn stacks_at_traps() -> Result<(), Failed> {
    let host = Host::new()?;
    let probe = host.build(&Code::default())?;
    let own_table = probe.plan.address(probe.plan.table_frames.start);
    probe.destroy()?;
    for stack in wild_stacks().chain([LSTAR + 0x800, own_table + 0x800]) {
        let mut code = Code::default();
        code.catch_faults().mov(Reg::Rsp, stack).asm(|a| a.ud2());
        crash_on_stack(&host, &code, &format!("{stack:#x}"))?;
    }
    host.finish()
}

fn stacks_at_upcalls() -> Result<(), Failed> {
    let host = Host::new()?;
    for stack in wild_stacks() {
        let mut code = Code::default();
        code.catch_faults();
        let request = code.data(&BindIpi { vcpu: VcpuId(0), port: EventPort(0) });
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_IPI.0, request]);
        code.mov(Reg::Rsp, stack);
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, request + 4]);
        code.hypercall(N::SCHED_OP, &[SchedOp::BLOCK.0]);
        crash_on_stack(&host, &code, &format!("{stack:#x}"))?;
    }
    host.finish()
}

/// The stack that user mode's traps arrive on: `stack_switch` takes any, and what happens in user mode ends it.
fn stacks_from_user_mode() -> Result<(), Failed> {
    let host = Host::new()?;
    for stack in wild_stacks() {
        let mut code = Code::default();
        code.catch_faults();
        let operation = code.data(&MmuExtOp::new(MmuExtCommand::NEW_USER_BASEPTR, 0));
        code.hypercall(N::MMUEXT_OP, &[operation, 1, 0, 0x7ff0]);
        code.hypercall(N::STACK_SWITCH, &[stack, stack]);
        let (cs, ss) = (u64::from(FLAT_RING3_CS64), u64::from(FLAT_RING3_SS64));
        let fault = code.data(&[0x0bu8, 0x0f, 0x0b]) + 1; // ud2
        let frame =
            IretContext { rax: 0, r11: 0, rcx: 0, flags: 0, rip: fault, cs, rflags: 2, rsp: STACK, ss };
        let frame = code.data(&frame);
        code.mov(Reg::Rsp, frame).hypercall(N::IRET, &[]);
        let guest = host.build(&code)?;
        guest.poke(operation + 8, &guest.built.root.0);
        guest.start()?;
        let end = guest.wait()?;
        check_crash(&end, "cannot be written").map_err(|error| format!("{stack:#x}: {error:?}"))?;
    }
    host.finish()
}

fn trap_table(code: &mut Code, cs: u16, address: u64) {
    let entry = |vector| TrapInfo { vector, flags: 0, cs, padding: 0, address };
    let mut table: Vec<TrapInfo> = (0..32).map(entry).collect();
    table.push(TrapInfo::default());
    let table = code.data(table.as_slice());
    code.hypercall(N::SET_TRAP_TABLE, &[table]).say();
}

/// Every handler lies where no code can be: each fault is followed by one of its handler, until the stack has ended.
fn handlers() -> Result<(), Failed> {
    let host = Host::new()?;
    for address in FOREIGN.into_iter().skip(1) {
        let mut code = Code::default();
        trap_table(&mut code, FLAT_RING3_CS64, address);
        code.mov(Reg::Rsp, BOTTOM + 0x800).asm(|a| a.ud2());
        let (end, _) = host.run(&code)?;
        check(matches!(end, End::Crashed(_)), || format!("handlers at {address:#x}: {end}"))?;
    }
    let mut code = Code::default();
    for address in NOT_CANONICAL {
        trap_table(&mut code, FLAT_RING3_CS64, address);
    }
    code.power_off();
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    check(guest.said().iter().all(|&result| result as i64 == -22), || format!("{:x?}", guest.said()))?;
    host.finish()
}

/// Handlers with code segments that are none, that are data, or the hypervisor's.
fn selectors_of_handlers() -> Result<(), Failed> {
    let host = Host::new()?;
    for cs in [0, 3, 0x0008, 0xe008, 0xe010, 0xe02b, 0xe040, 0x0007, 0xffff, 0x7ff8] {
        let mut code = Code::default();
        trap_table(&mut code, cs, CODE);
        code.asm(|a| a.ud2());
        let (end, _) = host.run(&code)?;
        check_crash(&end, "cannot be entered").map_err(|error| format!("{cs:#x}: {error:?}"))?;
    }
    host.finish()
}

/// A failsafe callback that cannot be entered, and an event callback that cannot either.
fn callbacks() -> Result<(), Failed> {
    let host = Host::new()?;
    for address in FOREIGN.into_iter().skip(1) {
        let mut code = Code::default();
        trap_table(&mut code, FLAT_RING3_CS64, address);
        code.hypercall(N::SET_CALLBACKS, &[address, address, address]);
        let request = code.data(&BindIpi { vcpu: VcpuId(0), port: EventPort(0) });
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_IPI.0, request]);
        code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, request + 4]);
        code.mov(Reg::Rsp, BOTTOM + 0x800).hypercall(N::SCHED_OP, &[SchedOp::BLOCK.0]);
        let (end, _) = host.run(&code)?;
        check(matches!(end, End::Crashed(_)), || format!("callbacks at {address:#x}: {end}"))?;
    }
    // `callback_op` refuses what is no address; its older form has no way to, and leaves the entry point as it is.
    let mut code = Code::default();
    code.catch_faults();
    for address in NOT_CANONICAL {
        for kind in 0..8u64 {
            let request = code.data(&[kind, address]);
            code.hypercall(N::CALLBACK_OP, &[0, request]).say();
        }
        code.hypercall(N::SET_CALLBACKS, &[address; 3]);
    }
    let request = code.data(&BindIpi { vcpu: VcpuId(0), port: EventPort(0) });
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_IPI.0, request]);
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, request + 4]);
    code.mov(Reg::Rdi, SchedOp::BLOCK.0).attempt(N::SCHED_OP.0, &[0x0f, 0x05]);
    code.power_off();
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    let (last, refusals) = said.split_last().ok_or("nothing was said")?;
    let refused = |&result: &u64| matches!(result as i64, -22 | -38);
    check(refusals.len() == 32 && refusals.iter().all(refused), || format!("{said:x?}"))?;
    check(*last == trap::EVENT, || format!("the upcall arrived elsewhere: {last:#x}"))?;
    host.finish()
}

/// Bases that are not canonical are refused; those at the hypervisor's addresses fault when they are used.
fn segment_bases() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    for which in 0..3 {
        for base in NOT_CANONICAL {
            code.hypercall(N::SET_SEGMENT_BASE, &[which, base]).say();
        }
    }
    for base in [0xffff_8080_0000_0000, 0xffff_8180_0000_0000, UNMAPPED] {
        code.hypercall(N::SET_SEGMENT_BASE, &[0, base]);
        code.attempt(0, &[0x64, 0x48, 0x89, 0x04, 0x25, 0, 0, 0, 0]); // mov fs:[0], rax
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let expected = [-22i64 as u64; 12].into_iter().chain([14; 3]);
    check(guest.said().into_iter().eq(expected), || format!("{:x?}", guest.said()))?;
    host.finish()
}
