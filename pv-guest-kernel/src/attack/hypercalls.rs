//! Hypercalls with arguments that no kernel would pass.

use alloc::format;

use pv_abi::callback::{CallbackOp, CallbackRegister, CallbackType};
use pv_abi::console_io::ConsoleIoOp;
use pv_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindVirq, EventChannelOp, PortArgument, PortStatus, Status, Virq,
};
use pv_abi::hypercall::HypercallNumber;
use pv_abi::memory::MemoryOp;
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use pv_abi::sched::{Poll, SchedOp};
use pv_abi::segment::FLAT_RING3_CS64;
use pv_abi::trap::TrapInfo;
use pv_abi::vcpu::VcpuOp;
use pv_abi::version::VersionOp;
use pv_abi::{DomId, Errno, EventPort, VcpuId};

use super::report::Report;
use super::{Hex, hypervisor_addresses};
use crate::arch::hypercall::event_channel_op;
use crate::selftest::hypercall;
use crate::selftest::mappings::mmuext_op;
use crate::start_info;

const NON_CANONICAL: u64 = 1 << 63;

pub fn run(report: &mut Report) {
    pointers(report);
    entry_points(report);
    events(report);
    counts(report);
    registers(report);
    if !start_info::is_control_domain() {
        privileges(report);
    }
}

/// A call that reads or writes memory at an address, given as the place in its arguments where that stands.
type Pointer = (&'static str, HypercallNumber, fn(u64) -> [u64; 5]);

const SELF: u64 = DomId::SELF.0 as u64;

const POINTERS: [Pointer; 13] = [
    ("a hypercall with capabilities to", HypercallNumber::XEN_VERSION, |to| {
        [VersionOp::CAPABILITIES.0, to, 0, 0, 0]
    }),
    ("a hypercall with features at", HypercallNumber::XEN_VERSION, |at| {
        [VersionOp::GET_FEATURES.0, at, 0, 0, 0]
    }),
    ("a hypercall with the M2P's place to", HypercallNumber::MEMORY_OP, |to| {
        [MemoryOp::MACHPHYS_MAPPING.0, to, 0, 0, 0]
    }),
    ("a hypercall with a batch at", HypercallNumber::MULTICALL, |at| [at, 1, 0, 0, 0]),
    ("a hypercall with updates at", HypercallNumber::MMU_UPDATE, |at| [at, 1, 0, SELF, 0]),
    ("a hypercall with extended operations at", HypercallNumber::MMUEXT_OP, |at| [at, 1, 0, SELF, 0]),
    ("a hypercall with an event operation at", HypercallNumber::EVENT_CHANNEL_OP, |at| {
        [EventChannelOp::STATUS.0, at, 0, 0, 0]
    }),
    ("a hypercall with a poll at", HypercallNumber::SCHED_OP, |at| [SchedOp::POLL.0, at, 0, 0, 0]),
    ("a hypercall with a trap table at", HypercallNumber::SET_TRAP_TABLE, |at| [at, 0, 0, 0, 0]),
    ("a hypercall with a list of frames at", HypercallNumber::SET_GDT, |at| [at, 512, 0, 0, 0]),
    ("a hypercall with a callback at", HypercallNumber::CALLBACK_OP, |at| {
        [CallbackOp::REGISTER.0, at, 0, 0, 0]
    }),
    ("a hypercall with console output at", HypercallNumber::CONSOLE_IO, |at| {
        [ConsoleIoOp::WRITE.0, 16, at, 0, 0]
    }),
    ("a hypercall with a timer at", HypercallNumber::VCPU_OP, |at| {
        [VcpuOp::SET_SINGLESHOT_TIMER.0, 0, at, 0, 0]
    }),
];

/// Calls told to read or write at addresses that are not the domain's.
fn pointers(report: &mut Report) {
    for (what, number, args) in POINTERS {
        let places = hypervisor_addresses().chain([NON_CANONICAL, u64::MAX - 7]).map(Hex);
        report.everywhere(what, places.map(|place| (place, hypercall(number, args(place.0)))));
    }
}

fn entry_points(report: &mut Report) {
    let entry = |address| TrapInfo { vector: 3, flags: 0, cs: FLAT_RING3_CS64, padding: 0, address };
    let table = [entry(NON_CANONICAL), TrapInfo::default()];
    let set = hypercall(HypercallNumber::SET_TRAP_TABLE, [table.as_ptr() as u64, 0, 0, 0, 0]);
    report.refusal("a trap handler at a non-canonical address", set);
    for kind in [CallbackType::EVENT, CallbackType::FAILSAFE, CallbackType::SYSCALL] {
        let callback = CallbackRegister { kind, flags: 0, padding: 0, address: NON_CANONICAL };
        let args = [CallbackOp::REGISTER.0, &raw const callback as u64, 0, 0, 0];
        let set = hypercall(HypercallNumber::CALLBACK_OP, args);
        report.refusal(format!("the {kind} callback at a non-canonical address"), set);
    }
    // Whatever was taken, take it back.
    crate::arch::trap::init();
}

fn events(report: &mut Report) {
    for port in [0, 3000, 4095, 4096, u32::MAX] {
        let mut argument = PortArgument { port: EventPort(port) };
        for op in [EventChannelOp::SEND, EventChannelOp::CLOSE, EventChannelOp::UNMASK] {
            // Unmasking a port that is not in use has no effect, and Xen does not mind.
            if op == EventChannelOp::UNMASK && port < 4096 {
                continue;
            }
            report.refusal(format!("{op} on port {port}"), event_channel_op(op, &mut argument));
        }
    }
    let mut bind = BindInterdomain {
        remote_dom: DomId(0x6fff),
        padding: 0,
        remote_port: EventPort(1),
        local_port: EventPort(0),
    };
    let result = event_channel_op(EventChannelOp::BIND_INTERDOMAIN, &mut bind);
    report.refusal("connecting to a domain that does not exist", result);
    bind.remote_dom = DomId::SELF;
    bind.remote_port = EventPort(u32::MAX);
    let result = event_channel_op(EventChannelOp::BIND_INTERDOMAIN, &mut bind);
    report.refusal("connecting to a port that does not exist", result);
    let mut alloc = AllocUnbound { dom: DomId(0x6fff), remote_dom: DomId::SELF, port: EventPort(0) };
    let result = event_channel_op(EventChannelOp::ALLOC_UNBOUND, &mut alloc);
    report.refusal("a port in a domain that does not exist", result);
    let mut virq = BindVirq { virq: Virq(u32::MAX), vcpu: VcpuId(u32::MAX), port: EventPort(0) };
    report
        .refusal("a virtual interrupt out of range", event_channel_op(EventChannelOp::BIND_VIRQ, &mut virq));
}

fn counts(report: &mut Report) {
    for (what, nr_ports) in [("polling four billion ports", u32::MAX), ("polling ports at a wild address", 1)]
    {
        let poll = Poll { ports: NON_CANONICAL, nr_ports, padding: 0, timeout: 1 };
        let args = [SchedOp::POLL.0, &raw const poll as u64, 0, 0, 0];
        report.refusal(what, hypercall(HypercallNumber::SCHED_OP, args));
    }
    for (what, number) in
        [("updates", HypercallNumber::MMU_UPDATE), ("extended operations", HypercallNumber::MMUEXT_OP)]
    {
        let args = [NON_CANONICAL, u64::from(u32::MAX >> 1), 0, u64::from(DomId::SELF.0), 0];
        report.refusal(format!("two billion {what}"), hypercall(number, args));
        let other = [0x1000, 1, 0, 0x6fff, 0];
        report.refusal(format!("{what} for a domain that does not exist"), hypercall(number, other));
    }
    for vcpu in [1000, u64::from(u32::MAX)] {
        let args = [VcpuOp::STOP_SINGLESHOT_TIMER.0, vcpu, 0, 0, 0];
        report.refusal(format!("the timer of vCPU {vcpu}"), hypercall(HypercallNumber::VCPU_OP, args));
    }
    let entries = [0u64; 2];
    let gdt = hypercall(HypercallNumber::SET_GDT, [entries.as_ptr() as u64, u64::from(u32::MAX), 0, 0, 0]);
    report.refusal("a descriptor table of four billion entries", gdt);
    report
        .refusal("an operation number of all ones", hypercall(HypercallNumber::MEMORY_OP, [63, 0, 0, 0, 0]));
}

/// Segment bases, debug registers and the local descriptor table: state that the processor uses.
fn registers(report: &mut Report) {
    for base in 0..3 {
        let args = [base, NON_CANONICAL, 0, 0, 0];
        report.refusal(
            format!("segment base {base} at a non-canonical address"),
            hypercall(HypercallNumber::SET_SEGMENT_BASE, args),
        );
    }
    let set = |address| hypercall(HypercallNumber::SET_DEBUGREG, [0, address, 0, 0, 0]);
    report.everywhere("a breakpoint at", hypervisor_addresses().map(|address| (Hex(address), set(address))));
    for (what, value) in [("an I/O breakpoint", 0x0002_0002), ("general detect", 0x2000)] {
        report.refusal(what, hypercall(HypercallNumber::SET_DEBUGREG, [7, value, 0, 0, 0]));
    }
    let ldt = |address, entries| {
        let operation = MmuExtOp { arg2: entries, ..MmuExtOp::new(MmuExtCommand::SET_LDT, address) };
        mmuext_op(&[operation]).0
    };
    report.refusal("a local descriptor table at a non-canonical address", ldt(NON_CANONICAL, 8));
    report.refusal("a local descriptor table that is not aligned", ldt(0x1008, 8));
    report.refusal(
        "a local descriptor table in the hypervisor",
        ldt(pv_abi::address::HYPERVISOR_VIRT_START, 8),
    );
    report.refusal("a local descriptor table of too many entries", ldt(0x1000, 8193));
}

/// What only a control domain may ask for.
fn privileges(report: &mut Report) {
    let zeros = [0u64; 32];
    for number in [HypercallNumber::SYSCTL, HypercallNumber::DOMCTL, HypercallNumber::PLATFORM_OP] {
        let result = hypercall(number, [zeros.as_ptr() as u64, 0, 0, 0, 0]);
        report.refusal(number, result);
    }
    let mut alloc = AllocUnbound { dom: DomId::HOST, remote_dom: DomId::SELF, port: EventPort(0) };
    let result = event_channel_op(EventChannelOp::ALLOC_UNBOUND, &mut alloc);
    report.refusal("a port in the host domain", result);
    let mut status = Status {
        dom: DomId::HOST,
        padding: 0,
        port: EventPort(1),
        status: PortStatus(0),
        vcpu: VcpuId(0),
        detail0: 0,
        detail1: 0,
    };
    report
        .refusal("a port's status in the host domain", event_channel_op(EventChannelOp::STATUS, &mut status));
    let shutdown = [0u32, 0];
    let args = [SchedOp::REMOTE_SHUTDOWN.0, shutdown.as_ptr() as u64, 0, 0, 0];
    report.refusal("shutting down the host domain", hypercall(HypercallNumber::SCHED_OP, args));
    let machine_map: Result<u64, Errno> = hypercall(
        HypercallNumber::MEMORY_OP,
        [MemoryOp::MACHINE_MEMORY_MAP.0, zeros.as_ptr() as u64, 0, 0, 0],
    );
    report.refusal("the machine's memory map", machine_map);
}
