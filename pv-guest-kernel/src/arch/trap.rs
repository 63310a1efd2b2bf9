//! Where the hypervisor enters this kernel: exceptions, system calls, events, failed returns.
//!
//! Invariants:
//! - Every entry masks events (each gate asks for it), so nothing interrupts the kernel: an event
//!   enters from user mode, or while `sched_op` block waits.
//! - An entry from user mode arrives on the entry stack, whose top is `USER_FRAME`: the frame is
//!   saved where `user_mode` reads it, and control returns from `user_mode::enter`.
//! - An entry from kernel mode arrives on the kernel stack and goes back where it came from, or to
//!   the recovery point of a guarded call (`guard`), or ends in a panic.
//! - The way back is always the hypercall `iret`: the image holds no `iretq`.

use core::arch::{asm, global_asm, naked_asm};

use pv_abi::callback::CallbackType;
use pv_abi::hypercall::HypercallNumber;
use pv_abi::segment::{FLAT_KERNEL_CS64, FLAT_RING3_CS64, FLAT_RING3_SS64};
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
    /// No registers at all.
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

// Each stub turns what the hypervisor pushed into a `Frame`. On top of the usual frame lie RCX and
// R11, then (for some vectors) the error code; without one, the two slots serve as vector and error.
global_asm!(
    ".macro TRAP_WITHOUT_ERROR number",
    "trap_\\number:",
    "mov rcx, [rsp]",
    "mov r11, [rsp + 8]",
    "mov qword ptr [rsp + 8], 0",
    "mov qword ptr [rsp], \\number",
    "jmp trap_common",
    ".endm",
    ".macro TRAP_WITH_ERROR number",
    "trap_\\number:",
    "pop rcx",
    "mov r11, [rsp]",
    "mov qword ptr [rsp], \\number",
    "jmp trap_common",
    ".endm",
    ".pushsection .text.trap, \"ax\"",
    ".irp number, 0,1,2,3,4,5,6,7,9,16,18,19,20,0x21,0x80,0x100,0x101",
    "TRAP_WITHOUT_ERROR \\number",
    ".endr",
    ".irp number, 8,10,11,12,13,14,17,21",
    "TRAP_WITH_ERROR \\number",
    ".endr",
    // A return that failed: the four data selectors lie between R11 and the usual frame.
    "trap_0x102:",
    "mov rcx, [rsp]",
    "mov r11, [rsp + 8]",
    "add rsp, 32",
    "mov qword ptr [rsp + 8], 0",
    "mov qword ptr [rsp], 0x102",
    "trap_common:",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push rax",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "test byte ptr [rsp + {cs}], 2",
    "jnz {from_user}",
    "mov rdi, rsp",
    "mov rbx, rsp",
    "and rsp, -16",
    "call {from_kernel}",
    "mov rsp, rbx",
    // Leaves with RSP at a `Frame`.
    ".globl trap_return",
    "trap_return:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rax",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "add rsp, 8",
    "mov qword ptr [rsp], 0",
    "jmp hypercall_page + {iret} * 32",
    ".popsection",
    // The addresses of the stubs, by vector: what `install` registers.
    ".pushsection .rodata.trap, \"a\"",
    ".balign 8",
    ".globl trap_stubs",
    "trap_stubs:",
    ".irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,16,17,18,19,20,21,0x21,0x80,0x100,0x101,0x102",
    ".quad \\number, trap_\\number",
    ".endr",
    ".quad -1, 0",
    ".popsection",
    cs = const core::mem::offset_of!(Frame, cs),
    from_user = sym user_mode::leave,
    from_kernel = sym from_kernel,
    iret = const HypercallNumber::IRET.0,
);

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

/// An entry of the table that the assembly above makes.
#[repr(C)]
struct Stub {
    vector: u64,
    address: u64,
}

unsafe extern "C" {
    static trap_stubs: Stub;
}

/// The entry stubs, by vector.
fn stubs() -> impl Iterator<Item = (u64, u64)> {
    let first = &raw const trap_stubs;
    (0..)
        .map(move |index| {
            // SAFETY: the table ends with an address of 0, where `take_while` below stops.
            let stub = unsafe { &*first.add(index) };
            (stub.vector, stub.address)
        })
        .take_while(|(_, address)| *address != 0)
}

/// Vectors that user mode may raise by an instruction: the breakpoint, and 0x80.
const OPEN_TO_USERS: [u64; 2] = [Vector::BREAKPOINT.0 as u64, 0x80];

/// Registers the entries and the entry stack.
pub fn init() {
    let mut table = [TrapInfo::default(); 32];
    for ((vector, address), entry) in stubs().filter(|(vector, _)| *vector < 256).zip(&mut table) {
        let dpl = if OPEN_TO_USERS.contains(&vector) { 3 } else { 0 };
        *entry = TrapInfo {
            vector: vector as u8,
            flags: dpl | TrapInfo::MASKS_EVENTS,
            cs: FLAT_RING3_CS64,
            padding: 0,
            address,
        };
    }
    hypercall::set_trap_table(&table).expect("set_trap_table");
    for (vector, address) in stubs() {
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

/// An `iret` from the kernel to itself with these flags words. Gives back RAX, RCX and R11, for which
/// 0xa, 0xc and 0xb were asked.
pub fn return_to_self(flags: u64, rflags: u64) -> [u64; 3] {
    let (rax, rcx, r11);
    // SAFETY: goes on behind the jump with the stack as before; the clobbers are those of a call, for an
    // event may be taken in between.
    unsafe {
        asm!(
            "mov r8, rsp",
            "push {ss}",
            "push r8",
            "push rsi",
            "push {cs}",
            "lea rax, [rip + 2f]",
            "push rax",
            "push rdi",
            "mov eax, 0xa",
            "mov ecx, 0xc",
            "mov r11d, 0xb",
            "jmp hypercall_page + {iret} * 32",
            "2:",
            ss = const FLAT_RING3_SS64,
            cs = const FLAT_KERNEL_CS64,
            iret = const HypercallNumber::IRET.0,
            in("rdi") flags,
            in("rsi") rflags,
            lateout("rax") rax,
            lateout("rcx") rcx,
            lateout("r11") r11,
            clobber_abi("C"),
        );
    }
    [rax, rcx, r11]
}

/// An `iret` to `frame`'s RIP, CS, SS and RFLAGS, on the current stack, as a guarded call: if the place
/// can be reached, it returns from there.
pub fn guarded_return(frame: &Frame) -> Result<u64, guard::Trap> {
    let function = return_to as *const () as u64;
    // SAFETY: naked, and it leaves nothing behind that has to be dropped.
    unsafe { guard::call(function, &raw const *frame as u64, 0, 0) }
}

/// Leaves by `iret` to the frame in RDI, with RSP as on entry.
#[unsafe(naked)]
unsafe extern "C" fn return_to() {
    naked_asm!(
        "mov rax, rsp",
        "push qword ptr [rdi + {ss}]",
        "push rax",
        "push qword ptr [rdi + {rflags}]",
        "push qword ptr [rdi + {cs}]",
        "push qword ptr [rdi + {rip}]",
        "push 0",
        "jmp hypercall_page + {iret} * 32",
        ss = const core::mem::offset_of!(Frame, ss),
        rflags = const core::mem::offset_of!(Frame, rflags),
        cs = const core::mem::offset_of!(Frame, cs),
        rip = const core::mem::offset_of!(Frame, rip),
        iret = const HypercallNumber::IRET.0,
    )
}
