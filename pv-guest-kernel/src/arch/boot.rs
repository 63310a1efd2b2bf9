//! The first instruction, and the ELF notes that tell a domain builder about this image.
//!
//! Entered by the domain builder: CPL 3, events masked, RSI = address of `start_info`, RSP = top of
//! a boot stack of one page. That page is too small for us, so we leave it at once.

use core::arch::global_asm;

use pv_abi::elf_note::NoteType;

use super::vcpu::{STACK_BYTES, STACK_TOP};

global_asm!(
    ".pushsection .text.kernel_entry, \"ax\"",
    ".globl kernel_entry",
    ".type kernel_entry, @function",
    "kernel_entry:",
    "cld",
    "mov rdi, rsi",
    "lea rsp, [rip + kernel_stack + {stack_top}]",
    // The back trace ends at a null frame pointer; the null return address keeps RSP as after a call.
    "xor ebp, ebp",
    "push rbp",
    "jmp {main}",
    ".size kernel_entry, . - kernel_entry",
    ".popsection",
    // The lowest page of the stack becomes its guard page: see memory::protect. At its top lies the area of the vCPU.
    ".pushsection .bss.kernel_stack, \"aw\", @nobits",
    ".balign {stack_bytes}",
    ".globl kernel_stack",
    "kernel_stack:",
    ".skip {stack_bytes}",
    ".popsection",
    main = sym crate::kernel::main,
    stack_bytes = const STACK_BYTES,
    stack_top = const STACK_TOP,
);

// The hypervisor overwrites this page with its stubs, 32 bytes for each hypercall number, when the
// image is loaded. Until then each byte is a breakpoint.
global_asm!(
    ".pushsection .hypercall_page, \"ax\"",
    ".balign 4096",
    ".globl hypercall_page",
    ".type hypercall_page, @function",
    "hypercall_page:",
    ".fill 4096, 1, 0xcc",
    ".size hypercall_page, 4096",
    ".popsection",
);

global_asm!(
    ".macro XEN_NOTE number, directive, value:vararg",
    ".balign 4",
    ".long 4, 2f - 1f, \\number",
    ".asciz \"Xen\"",
    "1: \\directive \\value",
    "2: .balign 4",
    ".endm",
    ".pushsection .note.Xen, \"a\", @note",
    "XEN_NOTE {guest_os}, .asciz, \"Paravane\"",
    "XEN_NOTE {guest_version}, .asciz, \"1\"",
    "XEN_NOTE {loader}, .asciz, \"generic\"",
    "XEN_NOTE {xen_version}, .asciz, \"xen-3.0\"",
    "XEN_NOTE {features}, .asciz, \"\"",
    "XEN_NOTE {virt_base}, .quad, VIRT_BASE",
    "XEN_NOTE {paddr_offset}, .quad, 0",
    "XEN_NOTE {entry}, .quad, kernel_entry",
    "XEN_NOTE {hypercall_page}, .quad, hypercall_page",
    ".popsection",
    guest_os = const NoteType::GUEST_OS.0,
    guest_version = const NoteType::GUEST_VERSION.0,
    loader = const NoteType::LOADER.0,
    xen_version = const NoteType::XEN_VERSION.0,
    features = const NoteType::FEATURES.0,
    virt_base = const NoteType::VIRT_BASE.0,
    paddr_offset = const NoteType::PADDR_OFFSET.0,
    entry = const NoteType::ENTRY.0,
    hypercall_page = const NoteType::HYPERCALL_PAGE.0,
);
