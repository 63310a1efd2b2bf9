//! The entry stubs: assembly between what the hypervisor pushes and `Frame`.
//!
//! Jumped to by the hypervisor, at CPL 3, with events masked: from user mode on the entry stack, from
//! kernel mode on the kernel stack.

use core::arch::global_asm;

use pv_abi::hypercall::HypercallNumber;

use super::{Frame, from_kernel};
use crate::arch::user_mode;

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
pub fn all() -> impl Iterator<Item = (u64, u64)> {
    let first = &raw const trap_stubs;
    (0..)
        .map(move |index| {
            // SAFETY: the table ends with an address of 0, where `take_while` below stops.
            let stub = unsafe { &*first.add(index) };
            (stub.vector, stub.address)
        })
        .take_while(|(_, address)| *address != 0)
}
