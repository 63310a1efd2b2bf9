//! Timers: tasks ordered by deadline, and the one deadline of each vCPU that the hypervisor knows.
//!
//! Invariant: a vCPU that leaves the kernel has asked for an event at the first deadline, or another one has.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use pv_abi::event_channel::Virq;
use pv_abi::{Errno, EventPort, VcpuId};

use super::now;
use crate::arch::{hypercall, vcpu};
use crate::event::{self, Port};
use crate::sched::vcpus::MOST;
use crate::sync::Local;

struct Timers {
    waiting: BTreeMap<(u64, u64), Waker>,
    /// Tells timers of the same deadline apart.
    next_number: u64,
    /// What the hypervisor was last asked for, for each vCPU; 0 once that has passed.
    armed: [u64; MOST],
    /// Kept bound; their events need no handler, since every entry into the kernel looks at the clock.
    ports: Vec<Port>,
}

static TIMERS: Local<Timers> =
    Local::new(Timers { waiting: BTreeMap::new(), next_number: 0, armed: [0; MOST], ports: Vec::new() });

/// Prepares the timer of the first vCPU.
pub fn init() {
    bind(VcpuId(0)).expect("VIRQ_TIMER");
}

/// Binds the virtual interrupt of the next vCPU's timer, and stops the tick that Xen starts each vCPU with.
pub fn bind(vcpu: VcpuId) -> Result<(), Errno> {
    // A hypervisor without periodic timers has none to stop.
    let _ = hypercall::stop_periodic_timer(vcpu);
    let port = event::bind_virq_of(Virq::TIMER, vcpu)?;
    TIMERS.with(|timers| timers.ports.push(port));
    Ok(())
}

fn own() -> usize {
    vcpu::number() as usize
}

/// The port of this vCPU's timer.
pub fn port() -> EventPort {
    TIMERS.with(|timers| timers.ports[own()].number())
}

/// How many events of it have come.
pub fn events() -> u64 {
    TIMERS.with(|timers| timers.ports[own()].fired())
}

/// Somebody else has set the hypervisor's timer: what it was asked for is not known any more.
pub fn forget_armed() {
    TIMERS.with(|timers| timers.armed[own()] = 0);
}

/// Wakes the tasks whose deadline has passed.
pub fn expire() {
    let now = now();
    TIMERS.with(|timers| {
        if timers.armed[own()] <= now {
            timers.armed[own()] = 0;
        }
        while let Some(first) = timers.waiting.first_entry() {
            if first.key().0 > now {
                break;
            }
            first.remove().wake();
        }
    });
}

/// Has the hypervisor raise an event for some vCPU at the first deadline, and for this one at `limit`. It keeps an earlier
/// one that it knows already: an event too many does no harm.
pub fn arm(limit: Option<u64>) {
    TIMERS.with(|timers| {
        let first = timers.waiting.first_key_value().map(|(key, _)| key.0);
        let covers = |armed: u64, deadline: u64| armed != 0 && armed <= deadline;
        let first = first.filter(|first| !timers.armed.iter().any(|armed| covers(*armed, *first)));
        let Some(deadline) = first.into_iter().chain(limit).min() else { return };
        if covers(timers.armed[own()], deadline) {
            return;
        }
        set(deadline).expect("setting the timer");
        timers.armed[own()] = deadline;
    });
}

/// The single-shot timer, or the older call where that does not exist.
fn set(deadline: u64) -> Result<(), Errno> {
    match hypercall::set_singleshot_timer(deadline) {
        Err(Errno::ENOSYS) => hypercall::set_timer_op(deadline),
        other => other,
    }
    .map(|_| ())
}

/// Waits for a system time.
async fn sleep_until(deadline: u64) {
    let mut waiting = false;
    poll_fn(|context| {
        if now() >= deadline {
            return Poll::Ready(());
        }
        // A future stays with its task, so one entry is enough, however often it is polled.
        if core::mem::replace(&mut waiting, true) {
            return Poll::Pending;
        }
        TIMERS.with(|timers| {
            timers.next_number += 1;
            timers.waiting.insert((deadline, timers.next_number), context.waker().clone());
        });
        Poll::Pending
    })
    .await;
}

/// Waits for some nanoseconds.
pub async fn sleep(nanoseconds: u64) {
    sleep_until(now().saturating_add(nanoseconds)).await;
}
