//! The kernel's heap: a run of frames, fixed at boot, behind `alloc`.
//!
//! User memory never comes from here, so a program that eats all frames leaves the kernel its heap.

use core::alloc::{GlobalAlloc, Layout};

use pv_abi::PAGE_SIZE;
use talc::TalcCell;
use talc::source::Manual;

use super::{frames, linear};

/// The heap's size.
pub const BYTES: usize = 4 << 20;

struct Heap(TalcCell<Manual>);

// SAFETY: one vCPU, and the kernel is never interrupted inside the allocator.
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

/// Takes the frames.
pub fn init() {
    let first = frames::allocate_run((BYTES / PAGE_SIZE) as u64).expect("frames for the heap");
    // SAFETY: the frames adjoin in the linear map, and were given to nobody else.
    unsafe { HEAP.0.claim(linear::address(first) as *mut u8, BYTES) }.expect("a heap");
}

/// Bytes in use.
pub fn used() -> usize {
    HEAP.0.counters().allocated_bytes
}
