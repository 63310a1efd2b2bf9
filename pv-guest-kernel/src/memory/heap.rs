//! The kernel's heap: a run of frames, fixed at boot, behind `alloc`.
//!
//! User memory never comes from here, so a program that eats all frames leaves the kernel its heap.

use core::alloc::{GlobalAlloc, Layout};

use pv_abi::PAGE_SIZE;
use talc::TalcCell;
use talc::source::Manual;

use super::{frames, linear, translation};

/// The heap's share of memory, and its limits, in frames.
const SHARE: u64 = 16;
const LIMITS: (u64, u64) = (256, 16384);

struct Heap(TalcCell<Manual>);

// SAFETY: one vCPU at a time has the kernel, which is never interrupted inside the allocator.
unsafe impl Sync for Heap {}

// SAFETY: every call goes to the allocator inside, which keeps the contract.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.realloc(block, layout, new_size) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(Manual));

/// Gives the heap its frames: its [`SHARE`] of memory, within the [`LIMITS`]. No `Box` can be made before.
pub fn init() {
    let count = (translation::frames() / SHARE).clamp(LIMITS.0, LIMITS.1);
    let first = frames::allocate_run(count, 1).expect("frames for the heap");
    let bytes = count as usize * PAGE_SIZE;
    // SAFETY: the frames adjoin in the linear map, and were given to nobody else.
    unsafe { HEAP.0.claim(linear::address(first) as *mut u8, bytes) }.expect("a heap");
}

/// Bytes in use, and bytes that there are.
pub fn used_of() -> (usize, usize) {
    let counters = HEAP.0.counters();
    (counters.allocated_bytes, counters.claimed_bytes)
}
