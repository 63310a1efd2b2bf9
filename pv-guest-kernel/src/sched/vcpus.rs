//! The vCPUs of the domain: started at boot, and woken where there is something for them to do.
//!
//! Each runs the executor under the kernel's lock ([`super::lock`]), and programs without it. A vCPU that has nothing to do
//! sleeps until an event; one that has more to do than it can take wakes another by an event between the two.
//!
//! Invariant: a vCPU that does not hold the lock has the page tables of the program loaded that it runs, or the kernel's.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::task::Waker;

use pv_abi::event_channel::{EventChannelOp, PortArgument};
use pv_abi::guest_context::{GuestContext, GuestContextFlags};
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::shared_info::LEGACY_MAX_VCPUS;
use pv_abi::trap::rflags;
use pv_abi::vcpu::VcpuOp;
use pv_abi::{Errno, VcpuId};
use zerocopy::FromZeros;

use super::{executor, lock};
use crate::arch::vcpu::{self, STACK_TOP};
use crate::arch::{hypercall, trap, user_mode};
use crate::event::{self, Port};
use crate::memory::{self, linear, translation};
use crate::sync::Local;
use crate::user::address_space;
use crate::{start_info, time};

/// vCPUs that the kernel uses at most: `shared_info` has room for no more.
pub const MOST: usize = LEGACY_MAX_VCPUS;

/// The vCPU that boots the kernel. Events of devices come to it.
pub const FIRST: u32 = 0;

/// What a vCPU does, as those see it who may have to wake it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is in the kernel, waits for it, or will look for work there.
    Kernel,
    /// It runs a program, without the kernel's lock.
    User,
    /// It sleeps until an event (`SCHEDOP_block`), without the kernel's lock.
    Asleep,
}

/// What a vCPU has done since the kernel started it.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Turns of tasks: each is one poll of the task's future.
    pub turns: u64,
    /// Nanoseconds in programs, from where the lock is given up to where it is wanted again.
    pub user_ns: u64,
    /// How often it had nothing to do.
    pub sleeps: u64,
}

struct Vcpu {
    state: State,
    counts: Counts,
    /// Where others tell it that there is something to do; none for who is alone.
    port: Option<Port>,
}

impl Vcpu {
    fn new(port: Option<Port>) -> Self {
        Self { state: State::Kernel, counts: Counts::default(), port }
    }

    /// Has the vCPU look for work: an event to its own port ends its sleep, or interrupts its program.
    fn wake(&mut self) {
        self.state = State::Kernel;
        if let Some(port) = &self.port {
            let mut argument = PortArgument { port: port.number() };
            // It is called in the middle of anything, so the port's own counts stay as they are.
            hypercall::event_channel_op(EventChannelOp::SEND, &mut argument).expect("the port of a vCPU");
        }
    }
}

static VCPUS: Local<Vec<Vcpu>> = Local::new(Vec::new());

/// What each vCPU that the kernel uses has done.
pub fn counts() -> Vec<Counts> {
    VCPUS.with(|vcpus| vcpus.iter().map(|vcpu| vcpu.counts).collect())
}

/// How many vCPUs the kernel uses; the domain may have more.
pub fn count() -> usize {
    VCPUS.with(|vcpus| vcpus.len())
}

/// Counts what the vCPU that this runs on has done.
pub fn count_own(count: impl FnOnce(&mut Counts)) {
    VCPUS.with(|vcpus| count(&mut vcpus[vcpu::number() as usize].counts));
}

/// Starts all vCPUs; with `maxcpus=N` on the kernel's command line, N of them.
pub fn start() {
    let is_there =
        |number: &u32| hypercall::vcpu_op::<()>(VcpuOp::IS_UP, VcpuId(*number), None) != Err(Errno::ENOENT);
    let given = (1..).take_while(is_there).count() + 1;
    let line = start_info::command_line();
    let limit = line.split_whitespace().find_map(|word| word.strip_prefix("maxcpus=")?.parse().ok());
    let used = given.min(limit.unwrap_or(MOST)).clamp(1, MOST);
    let port = (used > 1).then(|| event::bind_ipi(VcpuId(FIRST)).expect("a port for the first vCPU"));
    VCPUS.with(|vcpus| vcpus.push(Vcpu::new(port)));
    for number in 1..used as u32 {
        if let Err(error) = start_one(number) {
            println!("vCPU {number} and those behind it are not used: {error}");
            return;
        }
    }
    if used < given {
        println!("{used} of {given} vCPUs are used");
    }
}

fn start_one(number: u32) -> Result<(), Errno> {
    let vcpu = VcpuId(number);
    let stack = memory::allocate_stack()?;
    // SAFETY: a stack that was just made, for this vCPU alone.
    unsafe { vcpu::prepare(stack, number) };
    let mut context: Box<GuestContext> = Box::new(GuestContext::new_zeroed());
    context.flags = GuestContextFlags::IN_KERNEL.bits();
    let regs = &mut context.user_regs;
    (regs.rip, regs.rsp) = (main as *const () as u64, stack + STACK_TOP as u64 - 8);
    (regs.cs, regs.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
    regs.rflags = rflags::RESERVED1 | rflags::IF;
    // `main` says where the entry stack is.
    context.kernel_ss = FLAT_RING3_SS64.into();
    context.ctrlreg[3] = translation::mfn(linear::root()).address();
    hypercall::vcpu_op(VcpuOp::INITIALISE, vcpu, Some(&*context))?;
    time::bind(vcpu)?;
    let port = event::bind_ipi(vcpu)?;
    hypercall::vcpu_op::<()>(VcpuOp::UP, vcpu, None)?;
    // It waits for the kernel until then.
    VCPUS.with(|vcpus| vcpus.push(Vcpu::new(Some(port))));
    Ok(())
}

/// Where all but the first begin.
extern "C" fn main() -> ! {
    lock::acquire();
    trap::init();
    executor::run()
}

/// Runs a program, while others have the kernel. Its page tables must be loaded.
pub fn run_program(context: &mut user_mode::Context) {
    let before = time::now();
    leave(State::User);
    user_mode::enter(context);
    let user_ns = time::now() - before;
    come_back();
    count_own(|counts| counts.user_ns += user_ns);
}

/// Sleeps until an event, while others have the kernel.
pub fn sleep() {
    address_space::load_kernel().expect("the kernel's root");
    count_own(|counts| counts.sleeps += 1);
    leave(State::Asleep);
    hypercall::sched_block();
    come_back();
}

/// Lets another vCPU have the kernel that waits for it.
pub fn give_way() {
    if lock::is_wanted() {
        address_space::load_kernel().expect("the kernel's root");
        lock::hand_over();
    }
}

fn leave(state: State) {
    offer_work();
    VCPUS.with(|vcpus| vcpus[vcpu::number() as usize].state = state);
    lock::release();
}

fn come_back() {
    lock::acquire();
    VCPUS.with(|vcpus| vcpus[vcpu::number() as usize].state = State::Kernel);
}

/// Wakes who can take a task that is ready, and that this vCPU leaves behind.
fn offer_work() {
    let (for_any, for_first) = executor::waiting();
    VCPUS.with(|vcpus| {
        if for_first && vcpu::number() != FIRST && vcpus[0].state != State::Kernel {
            vcpus[0].wake();
        }
        if for_any && let Some(sleeper) = vcpus.iter_mut().find(|it| it.state == State::Asleep) {
            sleeper.wake();
        }
    });
}

/// Has a vCPU come back from the program that it runs.
pub fn interrupt(number: u32) {
    VCPUS.with(|vcpus| {
        if let Some(vcpu) = vcpus.get_mut(number as usize).filter(|vcpu| vcpu.state == State::User) {
            vcpu.wake();
        }
    });
}

/// Wakes the vCPU that waits within a task.
struct Here(u32);

impl Wake for Here {
    fn wake(self: Arc<Self>) {
        VCPUS.with(|vcpus| {
            let vcpu = &mut vcpus[self.0 as usize];
            if vcpu.state == State::Asleep {
                vcpu.wake();
            }
        });
    }
}

/// Wakes the vCPU that this runs on, where it sleeps.
pub fn waker() -> Waker {
    Arc::new(Here(vcpu::number())).into()
}
