//! Guarded calls: code that may trap, with the trap as its result.
//!
//! A guarded function is naked or hand-made machine code: it keeps nothing on the stack that has to
//! be dropped, so abandoning it at any instruction is sound. Guarded calls do not nest.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::memory_functions;
use pv_abi::segment::{FLAT_KERNEL_CS64, FLAT_RING3_SS64};
use pv_abi::trap::{Vector, rflags};

use super::trap::Frame;
use crate::sync::Local;

/// What ended a guarded call.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    pub vector: u64,
    pub error: u64,
    /// The faulting address of a page fault, otherwise 0.
    pub address: u64,
    /// From the frame, as the next four.
    pub rcx: u64,
    pub r11: u64,
    pub cs: u64,
    pub rflags: u64,
    pub ss: u64,
}

impl Trap {
    fn of(frame: &Frame) -> Self {
        let page_fault = frame.vector == u64::from(Vector::PAGE_FAULT.0);
        Self {
            vector: frame.vector,
            error: frame.error,
            address: if page_fault { crate::shared_info::fault_address() } else { 0 },
            rcx: frame.rcx,
            r11: frame.r11,
            cs: frame.cs,
            rflags: frame.rflags,
            ss: frame.ss,
        }
    }
}

/// RSP of the guarded call in progress, below its saved registers; 0 if there is none.
static GUARDED_RSP: AtomicU64 = AtomicU64::new(0);
static LAST_TRAP: Local<Option<Trap>> = Local::new(None);

/// Diverts the trap to the guarded call in progress, if there is one.
pub fn recover(frame: &mut Frame) -> bool {
    let rsp = GUARDED_RSP.load(Ordering::Relaxed);
    if rsp == 0 {
        return false;
    }
    LAST_TRAP.with(|trap| *trap = Some(Trap::of(frame)));
    // A return that failed left its own selectors and flags in the frame.
    frame.rip = abandon as *const () as u64;
    frame.cs = u64::from(FLAT_KERNEL_CS64);
    frame.rflags = rflags::RESERVED1;
    frame.rsp = rsp;
    frame.ss = u64::from(FLAT_RING3_SS64);
    true
}

/// Calls `function(first, second, third)` and gives back its RAX, or the trap that ended it.
///
/// # Safety
///
/// `function` may be abandoned at any instruction, and what it does if it is not is the caller's
/// responsibility.
pub unsafe fn call(function: u64, first: u64, second: u64, third: u64) -> Result<u64, Trap> {
    LAST_TRAP.with(|trap| *trap = None);
    // SAFETY: the caller vouches for the function; `enter` restores the stack and every preserved register.
    let value = unsafe { enter(function, first, second, third) };
    match LAST_TRAP.with(Option::take) {
        Some(trap) => Err(trap),
        None => Ok(value),
    }
}

/// Copies between kernel memory and memory that may be absent, such as a user's.
///
/// # Safety
///
/// The side that is kernel memory must be valid for `length` bytes, and the other side must not be
/// memory that Rust owns.
pub unsafe fn copy(dest: u64, source: u64, length: usize) -> Result<(), Trap> {
    let function = memory_functions::memcpy as *const () as u64;
    // SAFETY: memcpy is naked and may be abandoned; the caller vouches for the addresses.
    unsafe { call(function, dest, source, length as u64) }.map(|_| ())
}

/// Saves what the ABI preserves, notes RSP, and calls.
#[unsafe(naked)]
unsafe extern "C" fn enter(function: u64, first: u64, second: u64, third: u64) -> u64 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov [rip + {rsp}], rsp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "call rax",
        "jmp {abandon}",
        rsp = sym GUARDED_RSP,
        abandon = sym abandon,
    )
}

/// The common end of guarded calls: reached by a return, or by `recover` with RSP put back.
#[unsafe(naked)]
unsafe extern "C" fn abandon() {
    naked_asm!(
        "cld",
        "mov qword ptr [rip + {rsp}], 0",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        rsp = sym GUARDED_RSP,
    )
}
