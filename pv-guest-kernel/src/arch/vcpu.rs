//! Which vCPU this is, and what belongs to it alone: its stack, and the area at the top of that.
//!
//! A stack is aligned to its size, so that the stack pointer tells the vCPU. The boot stack is the first vCPU's; those of
//! the others come from the frame allocator.

use core::arch::asm;

use super::user_mode::EntryArea;

/// The size of a vCPU's stack. Tasks are futures and have none of their own.
pub const STACK_BYTES: usize = 128 * 1024;

/// What a vCPU has at the top of its stack.
#[repr(C, align(16))]
pub struct Area {
    pub entry: EntryArea,
    /// How many changes of the kernel's mappings it has seen.
    pub changes_seen: u64,
    /// The vCPU's number, as hypercalls name it; 0 is the vCPU that boots.
    pub number: u32,
}

/// Where the stack of a vCPU begins, below its area, seen from the lowest address.
pub const STACK_TOP: usize = STACK_BYTES - size_of::<Area>();

/// The area of the stack at an address in it.
fn area_of(address: u64) -> *mut Area {
    ((address & !(STACK_BYTES as u64 - 1)) + STACK_TOP as u64) as *mut Area
}

/// The area of the vCPU that this runs on.
pub fn area() -> *mut Area {
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    area_of(rsp)
}

/// The number of the vCPU that this runs on.
pub fn number() -> u32 {
    // SAFETY: set before the vCPU runs, and never changed.
    unsafe { (*area()).number }
}

/// Notes the changes that this vCPU has seen, and gives those that it had seen before.
pub fn see_changes(changes: u64) -> u64 {
    // SAFETY: the field is this vCPU's alone.
    unsafe { core::mem::replace(&mut (*area()).changes_seen, changes) }
}

/// Prepares the stack of another vCPU, which lies at `stack`.
///
/// # Safety
///
/// There must be [`STACK_BYTES`] writable bytes that nothing else uses, aligned to that.
pub unsafe fn prepare(stack: u64, number: u32) {
    // SAFETY: the caller's.
    unsafe {
        let area = area_of(stack);
        area.write_bytes(0, 1);
        (*area).number = number;
    }
}
