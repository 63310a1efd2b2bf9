//! A second vCPU: started, told things by events, kept from a page by shoot-downs, stopped.
//!
//! In a domain that has one vCPU, or whose kernel uses them all, these checks are left out, one line each all the same:
//! `maxcpus=1` on the kernel's command line leaves the second vCPU to them. It can be initialised once: later runs find it
//! stopped, and start it again.

use core::fmt::Display;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicBool, AtomicU32};

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use pv_abi::event_channel::{AllocUnbound, BindIpi, BindVcpu, BindVirq, EventChannelOp, PortArgument, Virq};
use pv_abi::guest_context::{GuestContext, GuestContextFlags};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp, UpdateVaMappingFlags};
use pv_abi::page_table::PteFlags;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::shared_info::VcpuInfo;
use pv_abi::trap::{TrapInfo, Vector, rflags};
use pv_abi::vcpu::{RegisterVcpuInfo, VcpuOp};
use pv_abi::{DomId, Errno, EventPort, VcpuId};
use zerocopy::FromZeros;

use super::events::send;
use super::laboratory::Page;
use super::mappings::mmuext_op;
use super::report::Report;
use super::second::{self, SECOND_VCPU, order};
use super::{WILD, hypercall as any_hypercall};
use crate::arch::hypercall::{event_channel_op, sched_yield, vcpu_op};
use crate::event::status;
use crate::memory::{KERNEL_DATA, linear, translation};
use crate::sched::vcpus;
use crate::time::{MILLISECOND, SECOND, now};

const NONE: Option<&()> = None;

/// Set once the second vCPU has a context.
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// What of the checks can be done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The domain has one vCPU.
    Alone,
    /// The second is the kernel's.
    Taken,
    /// The second has never run.
    Fresh,
    /// The second has run in an earlier self-test: it cannot be initialised again.
    Known,
}

struct Checks<'a> {
    report: &'a mut Report,
    stage: Stage,
}

impl Checks<'_> {
    /// Whether the second vCPU is there for them.
    fn has_second(&self) -> bool {
        matches!(self.stage, Stage::Fresh | Stage::Known)
    }

    /// A check that needs a second vCPU.
    fn check<D: Display>(&mut self, what: &str, of: impl FnOnce() -> (bool, D)) {
        match self.stage {
            Stage::Alone => return self.report.check(what, true, "left out, there is one vCPU"),
            Stage::Taken => return self.report.check(what, true, "left out, the kernel uses it (maxcpus=1)"),
            Stage::Fresh | Stage::Known => {}
        }
        let (ok, outcome) = of();
        self.report.check(what, ok, outcome);
    }

    /// A check that needs one that has never run.
    fn first(&mut self, what: &str, of: impl FnOnce() -> Result<u64, Errno>, expected: Result<u64, Errno>) {
        if self.stage == Stage::Known {
            return self.report.check(what, true, "left out, it has run before");
        }
        self.call(what, of, expected);
    }

    /// A call that needs a second vCPU, with its result.
    fn call(&mut self, what: &str, of: impl FnOnce() -> Result<u64, Errno>, expected: Result<u64, Errno>) {
        self.check(what, || {
            let got = of();
            (got == expected, format!("{got:?}, {expected:?} expected"))
        });
    }
}

pub fn run(report: &mut Report) {
    let up = |vcpu| vcpu_op(VcpuOp::IS_UP, VcpuId(vcpu), NONE);
    report.equal("is_up of the vCPU that asks", up(0), Ok(1));
    report.refused("is_up past the last vCPU", up(8192), Errno::ENOENT);
    report.refused("an unknown operation on a vCPU", vcpu_op(VcpuOp(99), VcpuId(0), NONE), Errno::ENOSYS);
    let itself = vcpu_op(VcpuOp::INITIALISE, VcpuId(0), Some(&*context()));
    report.refused("initialising the vCPU that runs", itself, Errno::EEXIST);
    let stage = match up(1) {
        Err(Errno::ENOENT) => Stage::Alone,
        _ if vcpus::count() > 1 => Stage::Taken,
        _ if INITIALISED.load(SeqCst) => Stage::Known,
        _ => Stage::Fresh,
    };
    let mut checks = Checks { report, stage };
    start(&mut checks);
    events(&mut checks);
    shoot_downs(&mut checks);
    stop(&mut checks);
}

/// The second vCPU's first context: no descriptor table, one handler.
fn context() -> Box<GuestContext> {
    let mut context: Box<GuestContext> = Box::new(GuestContext::new_zeroed());
    context.flags = GuestContextFlags::IN_KERNEL.bits();
    let stack = second::stack().end;
    let regs = &mut context.user_regs;
    (regs.rip, regs.rsp) = (second::main as *const () as u64, stack - 8);
    (regs.cs, regs.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
    regs.rflags = rflags::RESERVED1 | rflags::IF;
    let vector = Vector::PAGE_FAULT.0;
    context.trap_ctxt[usize::from(vector)] = TrapInfo {
        vector,
        flags: TrapInfo::MASKS_EVENTS,
        cs: FLAT_RING3_CS64,
        padding: 0,
        address: crate::arch::second::page_fault as *const () as u64,
    };
    (context.kernel_ss, context.kernel_sp) = (FLAT_RING3_SS64.into(), stack);
    context.ctrlreg[3] = translation::mfn(linear::root()).address();
    context
}

fn start(checks: &mut Checks<'_>) {
    let op = |op, argument: Option<&GuestContext>| vcpu_op(op, SECOND_VCPU, argument);
    checks.call("is_up of a vCPU that does not run", || op(VcpuOp::IS_UP, None), Ok(0));
    checks.first("starting a vCPU that has no context", || op(VcpuOp::UP, None), Err(Errno::EINVAL));
    let wild = [VcpuOp::INITIALISE.0, SECOND_VCPU.0.into(), WILD, 0, 0];
    let from_wild = || any_hypercall(pv_abi::hypercall::HypercallNumber::VCPU_OP, wild);
    checks.first("a context at a wild address", from_wild, Err(Errno::EFAULT));
    for (what, spoil) in SPOILT {
        let spoilt = || {
            let mut context = context();
            spoil(&mut context);
            op(VcpuOp::INITIALISE, Some(&context))
        };
        checks.first(what, spoilt, Err(Errno::EINVAL));
    }
    info(checks);
    checks.first("initialising a vCPU", || op(VcpuOp::INITIALISE, Some(&context())), Ok(0));
    INITIALISED.store(checks.has_second(), SeqCst);
    checks.call("initialising it twice", || op(VcpuOp::INITIALISE, Some(&context())), Err(Errno::EEXIST));
    if checks.has_second() {
        bind_ports();
    }
    checks.call("starting it", || op(VcpuOp::UP, None), Ok(0));
    checks.call("is_up of it", || op(VcpuOp::IS_UP, None), Ok(1));
    checks.check("its stack", || {
        let at = until(|| Some(second::STARTED_AT.load(SeqCst)).filter(|at| *at != 0));
        (at.is_some_and(|at| second::stack().contains(&at)), "its own")
    });
}

/// A context made useless, and how.
type Spoilt = (&'static str, fn(&mut GuestContext));

/// What no vCPU can start with.
const SPOILT: [Spoilt; 5] = [
    ("a context whose RIP is not canonical", |context| context.user_regs.rip = 1 << 63),
    ("a context with a handler that is not canonical", |context| context.trap_ctxt[3].address = 1 << 63),
    ("a context with too long a descriptor table", |context| context.gdt_ents = 9000),
    ("a context without a root table", |context| context.ctrlreg[3] = context_page()),
    ("a context of user mode without its root table", |context| context.flags = 0),
];

/// The machine address of a page that is no root table.
fn context_page() -> u64 {
    Page::new().mfn().address()
}

/// Its `vcpu_info` moves into a page of the kernel's.
fn info(checks: &mut Checks<'_>) {
    const OFFSET: u32 = 128;
    let page = Page::new();
    let register = |offset| {
        let place = RegisterVcpuInfo { mfn: page.mfn(), offset, reserved: 0 };
        vcpu_op(VcpuOp::REGISTER_VCPU_INFO, SECOND_VCPU, Some(&place))
    };
    let over = 4096 - size_of::<VcpuInfo>() as u32 + 8;
    checks.first("vcpu_info across the end of a page", || register(over), Err(Errno::ENXIO));
    checks.first("vcpu_info in a page of the kernel's", || register(OFFSET), Ok(0));
    checks.check("what it holds there", || {
        let info = Some(second::INFO.load(SeqCst)).filter(|at| *at != 0);
        let word = info.map_or_else(|| page.get(OFFSET as usize / 8), |_| 0x101);
        (word & 0xffff == 0x101, "pending and masked")
    });
    checks.call("moving vcpu_info twice", || register(0), Err(Errno::EINVAL));
    if checks.stage == Stage::Fresh {
        second::INFO.store(page.address() + u64::from(OFFSET), SeqCst);
        // The hypervisor writes it from now on.
        core::mem::forget(page);
    }
}

/// Both IPI ports, and the timer's.
fn bind_ports() {
    let ipi = |vcpu| {
        let mut bind = BindIpi { vcpu, port: EventPort(0) };
        event_channel_op(EventChannelOp::BIND_IPI, &mut bind).map_or(0, |_| bind.port.0)
    };
    second::ANSWERS.store(ipi(VcpuId(0)), SeqCst);
    let mut timer = BindVirq { virq: Virq::TIMER, vcpu: SECOND_VCPU, port: EventPort(0) };
    event_channel_op(EventChannelOp::BIND_VIRQ, &mut timer).ok();
    second::TIMER.store(timer.port.0, SeqCst);
    // A vCPU that was stopped is in the middle of its wait for the old port, or comes back to its loop.
    second::ORDERS.store(ipi(SECOND_VCPU), SeqCst);
    vcpu_op(VcpuOp::STOP_PERIODIC_TIMER, SECOND_VCPU, NONE).ok();
}

fn close_ports() {
    for port in [&second::ANSWERS, &second::TIMER, &second::ORDERS] {
        let port = EventPort(port.swap(0, SeqCst));
        event_channel_op(EventChannelOp::CLOSE, &mut PortArgument { port }).ok();
    }
}

/// Tries again and again, for some seconds.
fn until<T>(mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let limit = now() + 10 * SECOND;
    loop {
        let value = found();
        if value.is_some() || now() > limit {
            return value;
        }
        sched_yield();
    }
}

/// Tells the second vCPU something.
fn tell(order: u32) {
    second::ORDER.store(order, SeqCst);
    send(EventPort(second::ORDERS.load(SeqCst))).ok();
}

/// Waits for the second vCPU's answer, for 10 seconds at most. False where none came.
fn answered() -> bool {
    second::wait(&second::ANSWERS, now() + 10 * SECOND)
}

fn events(checks: &mut Checks<'_>) {
    const ROUNDS: usize = 20;
    checks.check("events to it and back", || {
        let rounds = (0..ROUNDS).take_while(|_| {
            tell(order::ANSWER);
            answered()
        });
        let rounds = rounds.count();
        (rounds == ROUNDS, format!("{rounds} rounds"))
    });
    checks.check("its own timer", || {
        tell(order::WAIT_FOR_TIMER);
        let came = answered();
        let waited = second::WAITED.load(SeqCst);
        (came && (2 * MILLISECOND..5 * SECOND).contains(&waited), format!("{} us", waited / 1000))
    });
    checks.check("a port that notifies it", || {
        let mut unbound = AllocUnbound { dom: DomId::SELF, remote_dom: DomId::SELF, port: EventPort(0) };
        event_channel_op(EventChannelOp::ALLOC_UNBOUND, &mut unbound).ok();
        let mut bind = BindVcpu { port: unbound.port, vcpu: SECOND_VCPU };
        let bound = event_channel_op(EventChannelOp::BIND_VCPU, &mut bind);
        let vcpu = status(unbound.port).map(|status| status.vcpu);
        event_channel_op(EventChannelOp::CLOSE, &mut PortArgument { port: unbound.port }).ok();
        (bound == Ok(0) && vcpu == Ok(SECOND_VCPU), format!("{vcpu:?}"))
    });
}

/// A way of taking a page from all vCPUs: the flags of `update_va_mapping`, and what follows.
type Way = (&'static str, fn(u64) -> UpdateVaMappingFlags, Option<MmuExtCommand>);

/// The vCPUs of the masks: both.
static MASK: (AtomicU32, AtomicU32) = (AtomicU32::new(3), AtomicU32::new(0));

fn mask() -> u64 {
    &raw const MASK as u64
}

const WAYS: [Way; 6] = [
    ("INVLPG of all", |_| UpdateVaMappingFlags::INVLPG | UpdateVaMappingFlags::ALL, None),
    ("TLB_FLUSH of all", |_| UpdateVaMappingFlags::TLB_FLUSH | UpdateVaMappingFlags::ALL, None),
    (
        "INVLPG of a mask",
        |mask| UpdateVaMappingFlags::from_bits_retain(mask | UpdateVaMappingFlags::INVLPG.bits()),
        None,
    ),
    ("TLB_FLUSH_MULTI", |_| UpdateVaMappingFlags::empty(), Some(MmuExtCommand::TLB_FLUSH_MULTI)),
    ("INVLPG_MULTI", |_| UpdateVaMappingFlags::empty(), Some(MmuExtCommand::INVLPG_MULTI)),
    ("INVLPG_ALL", |_| UpdateVaMappingFlags::empty(), Some(MmuExtCommand::INVLPG_ALL)),
];

fn shoot_downs(checks: &mut Checks<'_>) {
    const ROUNDS: usize = 8;
    let page = Page::new();
    if checks.has_second() {
        second::ADDRESS.store(page.address(), SeqCst);
        tell(order::TOUCH);
    }
    for (name, flags, command) in WAYS {
        checks.check(&format!("a page taken from it by {name}"), || {
            let rounds = (0..ROUNDS).try_for_each(|_| take_away(&page, flags(mask()), command));
            let outcome = rounds.map_or_else(|why| why, |()| format!("{ROUNDS} times, never touched again"));
            (outcome.ends_with("again"), outcome)
        });
    }
}

/// Maps the page, waits until the second vCPU touches it, takes it away, and looks whether it is touched once more.
fn take_away(page: &Page, flags: UpdateVaMappingFlags, command: Option<MmuExtCommand>) -> Result<(), String> {
    let next_epoch = || second::EPOCH.fetch_add(1, SeqCst) + 1;
    page.protect(KERNEL_DATA).map_err(|error| format!("mapping it: {error}"))?;
    let mapped = next_epoch();
    until(|| (second::SUCCEEDED_IN.load(SeqCst) == mapped).then_some(())).ok_or("it is not touched")?;
    page.map(page.mfn(), PteFlags::empty(), flags).map_err(|error| format!("unmapping it: {error}"))?;
    if let Some(command) = command {
        let arg2 = if command == MmuExtCommand::INVLPG_ALL { 0 } else { mask() };
        let flush = MmuExtOp { arg2, ..MmuExtOp::new(command, page.address()) };
        mmuext_op(&[flush]).0.map_err(|error| format!("flushing: {error}"))?;
    }
    let taken = next_epoch();
    until(|| (second::FAILED_IN.load(SeqCst) == taken).then_some(())).ok_or("no touch fails")?;
    let before = second::TOUCHES.load(SeqCst);
    until(|| (second::TOUCHES.load(SeqCst) > before + 4).then_some(())).ok_or("it stands still")?;
    match second::SUCCEEDED_IN.load(SeqCst) {
        epoch if epoch >= taken => Err("it was touched afterwards".into()),
        _ => Ok(()),
    }
}

fn stop(checks: &mut Checks<'_>) {
    let op = |op| vcpu_op(op, SECOND_VCPU, NONE);
    checks.call("stopping it", || op(VcpuOp::DOWN), Ok(0));
    checks.call("is_up of it then", || op(VcpuOp::IS_UP), Ok(0));
    checks.check("it stands still", || {
        let still = until(|| {
            let before = second::TOUCHES.load(SeqCst);
            let limit = now() + 5 * MILLISECOND;
            while now() < limit {
                sched_yield();
            }
            (second::TOUCHES.load(SeqCst) == before).then_some(())
        });
        (still.is_some(), "for 5 ms")
    });
    checks.call("starting it again", || op(VcpuOp::UP), Ok(0));
    checks.check("it goes on", || {
        let before = second::TOUCHES.load(SeqCst);
        (until(|| (second::TOUCHES.load(SeqCst) > before).then_some(())).is_some(), "touching")
    });
    checks.check("it stops itself", || {
        second::ORDER.store(order::ANSWER, SeqCst);
        let idle = answered();
        tell(order::STOP);
        let down = until(|| (op(VcpuOp::IS_UP) == Ok(0)).then_some(()));
        (idle && down.is_some(), "down")
    });
    if checks.has_second() {
        close_ports();
    }
}
