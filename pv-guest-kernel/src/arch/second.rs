//! What a second vCPU needs of assembly. It has a stack of its own and one handler, for page faults of [`touch`]: the
//! kernel's own traps, and everything that they reach, belong to the kernel's own vCPUs.

use core::arch::naked_asm;

use pv_abi::hypercall::HypercallNumber;

/// Whether a word at `address` can be read. For a vCPU whose page faults go to [`page_fault`].
#[unsafe(naked)]
pub extern "C" fn touch(address: u64) -> bool {
    naked_asm!(
        ".globl second_touch",
        "second_touch:",
        "mov rax, [rdi]",
        "mov eax, 1",
        "ret",
        ".globl second_touch_failed",
        "second_touch_failed:",
        "xor eax, eax",
        "ret",
    )
}

/// The handler of page faults. Jumped to by the hypervisor, on the stack of what faulted, on top of which lie RCX, R11
/// and the error code: goes on in [`touch`] with its answer. Any other fault is a bug of the kernel, and ends the
/// domain, for there is no handler for what it does then.
#[unsafe(naked)]
pub extern "C" fn page_fault() {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "lea rax, [rip + second_touch]",
        "cmp [rsp + 8], rax",
        "jne 2f",
        "lea rax, [rip + second_touch_failed]",
        "mov [rsp + 8], rax",
        // The flags word of the hypercall, in the error code's place.
        "mov qword ptr [rsp], 0",
        "jmp hypercall_page + {iret} * 32",
        "2: ud2",
        iret = const HypercallNumber::IRET.0,
    )
}
