//! Where the hypervisor enters this kernel: exceptions, system calls, events, failed returns.
//!
//! Invariants:
//! - Every entry masks events (each gate asks for it), so nothing interrupts the kernel: an event
//!   enters from user mode, or while `sched_op` block waits.
//! - An entry from user mode arrives on the entry stack, which has room for one frame at its top: the
//!   frame is saved where `user_mode` reads it, and control returns from `user_mode::enter`.
//! - An entry from kernel mode arrives on the kernel stack and goes back where it came from, or to
//!   the recovery point of a guarded call (`guard`), or ends in a panic.
//! - The way back is always the hypercall `iret`: the image holds no `iretq`.

pub mod returns;
mod stubs;

use pv_abi::callback::CallbackType;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::{TrapInfo, Vector, rflags};

use super::{guard, hypercall, user_mode};

/// Pseudo vectors: what else than an exception can enter the kernel.
pub const EVENT: u64 = 0x100;
pub const SYSTEM_CALL: u64 = 0x101;
pub const FAILSAFE: u64 = 0x102;

/// The interrupted context, in the order in which the stubs below save it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The exception's number, or a pseudo vector.
    pub vector: u64,
    /// The error code; on the way out, the flags word of the `iret` hypercall.
    pub error: u64,
    pub rip: u64,
    /// The selector in the low 16 bits; the saved event mask above bit 32.
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Frame {
    /// Every field is 0: a caller that makes a frame for the hypercall `iret` sets what it needs.
    pub const ZERO: Self = Self {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r11: 0,
        r10: 0,
        r9: 0,
        r8: 0,
        rax: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        vector: 0,
        error: 0,
        rip: 0,
        cs: 0,
        rflags: 0,
        rsp: 0,
        ss: 0,
    };

    /// The first context of a user program.
    pub const fn user(rip: u64, rsp: u64) -> Self {
        Self {
            rip,
            rsp,
            cs: FLAT_RING3_CS64 as u64,
            ss: FLAT_RING3_SS64 as u64,
            rflags: rflags::RESERVED1 | rflags::IF,
            ..Self::ZERO
        }
    }
}

/// An entry from kernel mode. Runs on the kernel stack, above what was interrupted.
extern "C" fn from_kernel(frame: &mut Frame) {
    if frame.vector == EVENT {
        // Only block lets an event in: go back to it with events masked again; the scheduler's loop
        // looks at the ports next.
        frame.rflags &= !rflags::IF;
    } else if !guard::recover(frame) {
        crate::panic::unexpected_trap(frame);
    }
}

/// Who may raise a vector by an instruction: user mode (3), the kernel alone (1), nobody (0).
fn open_to(vector: u64) -> u8 {
    match vector {
        0x80 => 3,
        0x21 => 1,
        _ if vector == u64::from(Vector::BREAKPOINT.0) => 3,
        _ => 0,
    }
}

/// Registers the entries and the entry stack.
pub fn init() {
    let mut table = [TrapInfo::default(); 32];
    for ((vector, address), entry) in stubs::all().filter(|(vector, _)| *vector < 256).zip(&mut table) {
        *entry = TrapInfo {
            vector: vector as u8,
            flags: open_to(vector) | TrapInfo::MASKS_EVENTS,
            cs: FLAT_RING3_CS64,
            padding: 0,
            address,
        };
    }
    hypercall::set_trap_table(&table).expect("set_trap_table");
    for (vector, address) in stubs::all() {
        let kind = match vector {
            EVENT => CallbackType::EVENT,
            SYSTEM_CALL => CallbackType::SYSCALL,
            FAILSAFE => CallbackType::FAILSAFE,
            _ => continue,
        };
        hypercall::register_callback(kind, address).expect("callback_op");
    }
    hypercall::stack_switch(user_mode::entry_stack_top()).expect("stack_switch");
}
