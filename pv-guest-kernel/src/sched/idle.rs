//! When no task is ready: looks for answers that are expected, for a while, then sleeps until an event. A vCPU looks as long
//! as no other wants the kernel.
//!
//! Invariant: before the vCPU gives up the processor or enters user mode, every source is asked to announce its next
//! answer by an event, and none has come meanwhile. So no answer is missed, and none is announced to a kernel that looks.
//! Other events are seen by the flag that they set: looking ends with them, and giving up the processor does not begin.

use alloc::rc::Weak;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::patience::Patience;
use super::{lock, vcpus};
use crate::sync::Local;
use crate::{shared_info, time};

/// Something whose answers can be seen without an event.
pub trait Source {
    /// Takes what has come, and wakes who waits for it. True where that was anything.
    fn look(&self) -> bool;

    /// Whether anything is to be expected.
    fn expects(&self) -> bool;

    /// Wants an event for the next answer. True where one has come meanwhile: then it was taken.
    fn ask(&self) -> bool;
}

/// How often there was nothing to do, and what helped.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Looks for an answer, for a while.
    pub looks: u64,
    /// Those of the looks in which a source had an answer.
    pub finds: u64,
    /// Sleeps of vCPUs until an event (`SCHEDOP_block`).
    pub sleeps: u64,
}

static SOURCES: Local<Vec<Weak<dyn Source>>> = Local::new(Vec::new());
static PATIENCE: Local<Patience> = Local::new(Patience::new());
static COUNTS: Local<Counts> = Local::new(Counts { looks: 0, finds: 0, sleeps: 0 });

/// What was counted since the start, of all vCPUs together.
pub fn counts() -> Counts {
    COUNTS.with(|counts| *counts)
}

/// Adds a source, as long as it exists.
pub fn add(source: Weak<dyn Source>) {
    SOURCES.with(|sources| {
        sources.retain(|source| source.strong_count() > 0);
        sources.push(source);
    });
}

/// Whether any source answers yes; all of them are asked.
fn any(mut of: impl FnMut(&dyn Source) -> bool) -> bool {
    SOURCES.with(|sources| {
        let yes = sources.iter().filter_map(Weak::upgrade).filter(|source| of(&**source));
        yes.count() > 0
    })
}

/// Takes what has come without an event.
pub fn look() -> bool {
    any(|source| source.look())
}

/// Wants events from now on. True where something has come meanwhile.
pub fn ask() -> bool {
    any(|source| source.ask())
}

/// Waits for something to happen. It may return early.
pub fn rest() {
    let expected = any(|source| source.expects());
    if (expected && look_for_a_while()) || ask() {
        return;
    }
    let asleep = time::now();
    time::arm(None);
    COUNTS.with(|counts| counts.sleeps += 1);
    vcpus::sleep();
    if expected {
        PATIENCE.with(|patience| patience.slept(time::now() - asleep));
    }
}

/// Looks as long as that is worth it; true where something has come.
fn look_for_a_while() -> bool {
    let patience = PATIENCE.with(|patience| patience.nanoseconds());
    if patience == 0 {
        return false;
    }
    COUNTS.with(|counts| counts.looks += 1);
    let deadline = time::now() + patience;
    while time::now() < deadline && !lock::is_wanted() {
        if look() {
            COUNTS.with(|counts| counts.finds += 1);
            PATIENCE.with(Patience::paid_off);
            return true;
        }
        if shared_info::upcall_pending().load(Ordering::Relaxed) != 0 {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}
