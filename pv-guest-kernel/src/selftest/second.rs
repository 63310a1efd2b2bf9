//! What the second vCPU does while the first one checks it: waits for events, and does what it is told then.
//!
//! The kernel has left it alone: it has none of what the kernel's own vCPUs have. So nothing here uses the kernel's memory,
//! its console or its tasks: atomics, hypercalls, and a stack of its own are all that there is. Events are never taken as
//! upcalls: ports stay masked, and are polled.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use pv_abi::event_channel::{EventChannelOp, PortArgument};
use pv_abi::vcpu::VcpuOp;
use pv_abi::{EventPort, VcpuId};

use crate::arch::{hypercall, processor, second};
use crate::shared_info;
use crate::time::{MILLISECOND, SECOND};

/// The number of the second vCPU, as hypercalls name it.
pub const SECOND_VCPU: VcpuId = VcpuId(1);

/// What the second vCPU can be told: values of [`ORDER`](super::ORDER).
pub mod order {
    /// To answer, by an event on the port [`ANSWERS`](super::ANSWERS).
    pub const ANSWER: u32 = 0;
    /// To wait for its own timer, then to answer.
    pub const WAIT_FOR_TIMER: u32 = 1;
    /// To touch an address until it is told something else, then to answer.
    pub const TOUCH: u32 = 2;
    /// To stop itself (`VCPUOP_down`). It does not answer that.
    pub const STOP: u32 = 3;
}

/// What it is told, by an event on [`ORDERS`].
pub static ORDER: AtomicU32 = AtomicU32::new(order::ANSWER);
/// The port on which it is told something; 0 until there is one.
pub static ORDERS: AtomicU32 = AtomicU32::new(0);
/// The port on which it answers.
pub static ANSWERS: AtomicU32 = AtomicU32::new(0);
/// The port of its timer.
pub static TIMER: AtomicU32 = AtomicU32::new(0);
/// Where its `vcpu_info` is mapped.
pub static INFO: AtomicU64 = AtomicU64::new(0);

/// Its stack pointer when it started.
pub static STARTED_AT: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds that its timer took.
pub static WAITED: AtomicU64 = AtomicU64::new(0);
/// The address that it touches, while its order is [`order::TOUCH`].
pub static ADDRESS: AtomicU64 = AtomicU64::new(0);
/// The first vCPU raises it after each change of what is mapped there.
pub static EPOCH: AtomicU64 = AtomicU64::new(1);
/// The epoch at the start of the last touch that succeeded, and of the last that failed.
pub static SUCCEEDED_IN: AtomicU64 = AtomicU64::new(0);
pub static FAILED_IN: AtomicU64 = AtomicU64::new(0);
/// How often it has touched an address, with success or without.
pub static TOUCHES: AtomicU64 = AtomicU64::new(0);

const STACK_BYTES: usize = 16 << 10;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: used by the second vCPU only.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_BYTES]));

/// The addresses of the stack that it starts on.
pub fn stack() -> core::ops::Range<u64> {
    let bottom = STACK.0.get() as u64;
    bottom..bottom + STACK_BYTES as u64
}

/// Where it starts, with RSP as after a call.
pub extern "C" fn main() -> ! {
    let local = AtomicU64::new(0);
    STARTED_AT.store(&raw const local as u64, SeqCst);
    loop {
        wait(&ORDERS, 0);
        match ORDER.load(SeqCst) {
            order::WAIT_FOR_TIMER => wait_for_timer(),
            order::TOUCH => touch(),
            order::STOP => {
                // It goes on behind this when it is started again.
                let _ = hypercall::vcpu_op::<()>(VcpuOp::DOWN, SECOND_VCPU, None);
                continue;
            }
            _ => {}
        }
        let port = EventPort(ANSWERS.load(SeqCst));
        let _ = hypercall::event_channel_op(EventChannelOp::SEND, &mut PortArgument { port });
    }
}

/// Waits until an event is pending on a port, and takes it. At system time `limit` it gives up, unless that is 0.
pub fn wait(port: &AtomicU32, limit: u64) -> bool {
    let port = port.load(SeqCst);
    let _ = hypercall::sched_poll(&[EventPort(port)], limit);
    let bit = 1u64 << (port % 64);
    shared_info::pending(port as usize / 64).fetch_and(!bit, SeqCst) & bit != 0
}

fn wait_for_timer() {
    let before = now();
    let _ = hypercall::set_singleshot_timer_of(SECOND_VCPU, before + 2 * MILLISECOND);
    let came = wait(&TIMER, before + 5 * SECOND);
    WAITED.store(if came { now() - before } else { u64::MAX }, SeqCst);
}

fn touch() {
    while ORDER.load(SeqCst) == order::TOUCH {
        let epoch = EPOCH.load(SeqCst);
        let place = if second::touch(ADDRESS.load(SeqCst)) { &SUCCEEDED_IN } else { &FAILED_IN };
        place.store(epoch, SeqCst);
        TOUCHES.fetch_add(1, SeqCst);
    }
}

/// System time by its own clock.
fn now() -> u64 {
    loop {
        let tsc = processor::time_stamp_counter();
        // SAFETY: set before it starts, and mapped for good.
        if let Some(info) = unsafe { shared_info::time_info_of(INFO.load(SeqCst)) } {
            return info.system_time_at(tsc.max(info.tsc_timestamp));
        }
        core::hint::spin_loop();
    }
}
