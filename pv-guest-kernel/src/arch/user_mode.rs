//! Entering user mode, and coming back with the reason.
//!
//! `enter` is a function call: it runs the context at CPL 3 until something ends that, and returns.
//! So a user task has no kernel stack, and the kernel's own state is an ordinary Rust stack frame.
//!
//! Invariants:
//! - The entry stack is used by nothing but entries from user mode, and holds one frame at its top.
//! - The user's x87 and SSE state is saved before any compiled code runs and restored after all of
//!   it, since compiled code uses those registers freely. No state beyond SSE is kept: programs
//!   must not use AVX.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::trap::Frame;
use super::vcpu;

/// The x87 and SSE state, as `fxsave` lays it out.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct FloatingPoint([u8; 512]);

impl FloatingPoint {
    /// The state after reset: every exception masked, every register empty.
    pub const fn new() -> Self {
        let mut bytes = [0; 512];
        bytes[0] = 0x7f;
        bytes[1] = 0x03;
        let mxcsr = MXCSR_RESET.to_le_bytes();
        bytes[24] = mxcsr[0];
        bytes[25] = mxcsr[1];
        Self(bytes)
    }
}

const MXCSR_RESET: u32 = 0x1f80;
static KERNEL_MXCSR: u32 = MXCSR_RESET;

/// Everything that a user task has in registers.
#[derive(Clone, Copy)]
pub struct Context {
    pub frame: Frame,
    pub floating_point: FloatingPoint,
}

/// The stack that the hypervisor switches to when it enters the kernel from user mode, and around it
/// what the assembly below needs. Each vCPU has one.
#[repr(C, align(16))]
pub struct EntryArea {
    /// Room below the frame: the stubs of the hypercall page push three registers before `iret`.
    spare: [u64; 64],
    frame: Frame,
    floating_point: FloatingPoint,
    kernel_rsp: u64,
}

const _: () = assert!(offset_of!(EntryArea, floating_point) % 16 == 0);

/// The address to register with `stack_switch`: just above the frame.
pub fn entry_stack_top() -> u64 {
    // SAFETY: computes an address.
    unsafe { &raw const (*vcpu::area()).entry.floating_point as u64 }
}

/// Runs `context` in user mode until an exception, a system call or an event ends it. The reason is
/// in the frame's vector. It needs no lock: it uses the context, and what is the vCPU's alone.
pub fn enter(context: &mut Context) {
    // SAFETY: nothing else uses the area; `switch` returns through `leave`, which has filled it.
    unsafe {
        let area = &raw mut (*vcpu::area()).entry;
        (*area).frame = context.frame;
        (*area).floating_point = context.floating_point;
        switch(area);
        context.frame = (*area).frame;
        context.floating_point = (*area).floating_point;
    }
}

/// Saves the kernel's preserved registers and leaves by `trap_return` with the area's frame.
#[unsafe(naked)]
unsafe extern "C" fn switch(area: *mut EntryArea) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + {kernel_rsp}], rsp",
        "fxrstor64 [rdi + {floating_point}]",
        "lea rsp, [rdi + {frame}]",
        "jmp trap_return",
        kernel_rsp = const offset_of!(EntryArea, kernel_rsp),
        floating_point = const offset_of!(EntryArea, floating_point),
        frame = const offset_of!(EntryArea, frame),
    )
}

/// Jumped to by the trap stubs with RSP at the area's frame, now complete: returns from `switch`.
#[unsafe(naked)]
pub unsafe extern "C" fn leave() {
    naked_asm!(
        "fxsave64 [rsp + {floating_point}]",
        "fninit",
        "ldmxcsr [rip + {mxcsr}]",
        "mov rsp, [rsp + {kernel_rsp}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        mxcsr = sym KERNEL_MXCSR,
        kernel_rsp = const offset_of!(EntryArea, kernel_rsp) - offset_of!(EntryArea, frame),
        floating_point = const offset_of!(EntryArea, floating_point) - offset_of!(EntryArea, frame),
    )
}
