//! The kernel's lock: one vCPU at a time runs kernel code.
//!
//! It is held from an entry into the kernel until user mode is entered or the vCPU sleeps, and so protects everything in
//! [`Local`](crate::sync::Local). What the others do meanwhile is to run programs, which is what there is to be done at the
//! same time. It is not given to vCPUs in the order in which they ask: the next one might have no processor.
//!
//! Whoever gets it forgets the translations that others have changed since it had it last.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::arch::hypercall;
use crate::memory::update;

/// How often a vCPU looks before it gives way: the one that holds the lock may have no processor.
const LOOKS: u32 = 1000;

/// The first vCPU starts with it.
static HELD: AtomicBool = AtomicBool::new(true);
static WAITING: AtomicU32 = AtomicU32::new(0);

/// Takes the lock, as soon as no other vCPU has it, and catches up with changes of the kernel's mappings.
pub fn acquire() {
    WAITING.fetch_add(1, Ordering::Relaxed);
    while HELD.swap(true, Ordering::Acquire) {
        look_until(|| !HELD.load(Ordering::Relaxed));
    }
    WAITING.fetch_sub(1, Ordering::Relaxed);
    update::catch_up();
}

/// Leaves the kernel to others. Only the holder may.
pub fn release() {
    update::note_own();
    HELD.store(false, Ordering::Release);
}

/// Leaves the kernel to another vCPU that waits for it, and waits for it again.
pub fn hand_over() {
    release();
    look_until(|| HELD.load(Ordering::Relaxed) || !is_wanted());
    acquire();
}

/// Whether another vCPU waits for it.
pub fn is_wanted() -> bool {
    WAITING.load(Ordering::Relaxed) > 0
}

/// Looks for a while, then gives way to other vCPUs.
fn look_until(it_is_so: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if it_is_so() {
            return;
        }
        core::hint::spin_loop();
    }
    hypercall::sched_yield();
}
