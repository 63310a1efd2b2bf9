//! The bench's guests: code at CPL3 that does one thing over and over and reads the TSC before and after it.
//!
//! The first is a kernel image for the ordinary domain builder, loaded from pfn 0 on, headers and all, so that an
//! offset in the file is a pseudo-physical address:
//!
//! | offset | what |
//! |---|---|
//! | 0 | ELF header, notes, code |
//! | [`HYPERCALL_PAGE`] | the hypercall page |
//! | [`COMMAND`], [`RESULT`] | what to do, and what came of it: see [`super::guest`] |
//! | [`OPERATIONS`] | two `mmuext_op`s, from the host; or the guest's event channel |
//! | [`GATE`] | what a program calls, from the host: a gate, an instruction that traps, a [`Computation`], each with a `ret` |
//! | [`KERNEL_STACK`] | where the stack for traps from user mode ends |
//! | [`MAPS`], [`UNMAPS`] | lists of `mmu_update`s, from the host |
//!
//! Every program is called with R12 = how often, and the command's other words in place; it returns RAX and RBX =
//! TSC ticks, or in RAX an error number negated. The second guest, `bare`, is the floors': see [`super::floor`].
#![allow(unsafe_code)] // assembly

#[cfg(doc)]
use super::computation::Computation;
use pv_abi::elf_note::NoteType;
use pv_abi::hypercall::HypercallNumber as Number;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use std::arch::global_asm;

/// Virtual address of offset 0.
pub const BASE: u64 = 0xffff_ffff_8000_0000;
/// See the head of this file, as for all of these.
pub const HYPERCALL_PAGE: u64 = 0x1000;
/// Eight words: a program's address, R12, and what else it takes.
pub const COMMAND: u64 = 0x2000;
/// Two words of 8 bytes: RAX and RBX of the program that returned.
pub const RESULT: u64 = 0x2100;
/// Two structures `mmuext_op` of 24 bytes each; or the port of the guest's event channel.
pub const OPERATIONS: u64 = 0x2200;
/// The code that a program calls. The host writes it; it ends with `ret`.
pub const GATE: u64 = 0x2300;
/// Where the stack for traps from user mode ends; it grows down from here.
pub const KERNEL_STACK: u64 = 0x4000;
/// The most updates in a list.
pub const UPDATES: u64 = 2048;
/// The list of the `mmu_update`s that map pages: 16 bytes each, [`UPDATES`] at most.
pub const MAPS: u64 = 0x8000;
/// The list of the `mmu_update`s that unmap them, directly behind the other.
pub const UNMAPS: u64 = MAPS + UPDATES * 16;
/// Where the image ends in memory.
const END: u64 = UNMAPS + UPDATES * 16;
/// Bytes of the ELF file: what lies from the hypercall page on is not in it.
const FILE_SIZE: usize = HYPERCALL_PAGE as usize;
/// Bytes of the floors' guest before what it measures.
const BARE_SIZE: usize = 128;
/// Bytes of a command: eight words of 8.
pub const COMMAND_SIZE: usize = 64;
/// Bytes of a result: two words of 8.
pub const RESULT_SIZE: usize = 16;

global_asm!(
    ".pushsection .rodata.paravane_bench, \"a\"",
    ".balign 8",
    ".global paravane_bench_image, paravane_bench_null, paravane_bench_update",
    ".global paravane_bench_event_setup, paravane_bench_event, paravane_bench_fault_setup",
    ".global paravane_bench_fault, paravane_bench_switch, paravane_bench_bare",
    ".global paravane_bench_emulate_setup, paravane_bench_trap, paravane_bench_store, paravane_bench_compute",
    "paravane_bench_image:",
    ".Lpvb_image:",
    // Elf64_Ehdr: a 64-bit little-endian executable for x86-64, with two program headers.
    "    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    "    .short 2, 62",
    "    .long 1",
    "    .quad {base} + .Lpvb_entry - .Lpvb_image, 64, 0",
    "    .long 0",
    "    .short 64, 56, 2, 64, 0, 0",
    // PT_LOAD: the whole file at address 0.
    "    .long 1, 7",
    "    .quad 0, {base}, 0, .Lpvb_end - .Lpvb_image, {end}, 4096",
    // PT_NOTE.
    "    .long 4, 4",
    "    .quad .Lpvb_notes - .Lpvb_image, 0, 0, .Lpvb_notes_end - .Lpvb_notes, 0, 4",
    ".Lpvb_notes:",
    "    .long 4, 8, {note_xen_version}",
    "    .asciz \"Xen\", \"xen-3.0\"",
    "    .long 4, 8, {note_virt_base}",
    "    .asciz \"Xen\"",
    "    .quad {base}",
    "    .long 4, 8, {note_hypercall_page}",
    "    .asciz \"Xen\"",
    "    .quad {base} + {hypercall_page}",
    ".Lpvb_notes_end:",
    // What the host fills in lies beyond the file, at fixed offsets from its start.
    ".set .Lpvb_page, .Lpvb_image + {hypercall_page}",
    ".set .Lpvb_command, .Lpvb_image + {command}",
    ".set .Lpvb_result, .Lpvb_image + {result}",
    ".set .Lpvb_operations, .Lpvb_image + {operations}",
    ".set .Lpvb_gate, .Lpvb_image + {gate}",
    // The loop: reads a command from the console, calls its program, writes the result.
    ".Lpvb_entry:",
    "    cld",
    "    mov r15, rsp",
    ".Lpvb_next:",
    "    mov rsp, r15",
    "    mov edi, 1", // CONSOLEIO_read
    "    mov esi, {command_size}",
    "    lea rdx, [rip + .Lpvb_command]",
    "    call .Lpvb_page + 32 * {console_io}",
    "    cmp rax, {command_size}",
    "    jne .Lpvb_power_off",
    "    mov r12, [rip + .Lpvb_command + 8]",
    "    xor ebx, ebx",
    "    call [rip + .Lpvb_command]",
    "    mov [rip + .Lpvb_result], rax",
    "    mov [rip + .Lpvb_result + 8], rbx",
    "    xor edi, edi", // CONSOLEIO_write
    "    mov esi, {result_size}",
    "    lea rdx, [rip + .Lpvb_result]",
    "    call .Lpvb_page + 32 * {console_io}",
    "    jmp .Lpvb_next",
    ".Lpvb_power_off:",
    "    push 0", // SHUTDOWN_poweroff
    "    mov edi, 2", // SCHEDOP_shutdown
    "    mov rsi, rsp",
    "    call .Lpvb_page + 32 * {sched_op}",
    "    ud2",
    // The stop watch: what has passed since `start`, in RAX. R13 is its own.
    ".Lpvb_start:",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    mov r13, rax",
    "    ret",
    ".Lpvb_stop:",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    sub rax, r13",
    "    ret",
    // xen_version(XENVER_version) by the gate that the host has chosen.
    ".Lpvb_call_nothing:",
    "    mov eax, {xen_version}",
    "    xor edi, edi",
    "    jmp .Lpvb_gate",
    "paravane_bench_null:",
    "    call .Lpvb_call_nothing",
    "    call .Lpvb_start",
    "2:  call .Lpvb_call_nothing",
    "    dec r12",
    "    jnz 2b",
    "    jmp .Lpvb_stop",
    // R12 pages are mapped from word 2 on by the list at word 3, touched, and unmapped by the list at word 4.
    "paravane_bench_update:",
    "    call .Lpvb_call_nothing",
    "    mov rdi, [rip + .Lpvb_command + 24]",
    "    call .Lpvb_mmu_update",
    "    mov rbp, rax",
    "    mov rcx, r12",
    "    mov rdi, [rip + .Lpvb_command + 16]",
    "2:  mov byte ptr [rdi], 1",
    "    add rdi, 4096",
    "    dec rcx",
    "    jnz 2b",
    "    mov rdi, [rip + .Lpvb_command + 32]",
    "    call .Lpvb_mmu_update",
    "    mov rbx, rax",
    "    mov rax, rbp",
    "    ret",
    // mmu_update(RDI, R12): ticks in RAX.
    ".Lpvb_mmu_update:",
    "    call .Lpvb_start",
    "    mov rsi, r12",
    "    xor edx, edx",
    "    mov r10d, {domid_self}",
    "    call .Lpvb_page + 32 * {mmu_update}",
    "    test rax, rax",
    "    jnz .Lpvb_failed",
    "    jmp .Lpvb_stop",
    // Gives up whatever is on the stack; RAX says why.
    ".Lpvb_failed:",
    "    lea rsp, [r15 - 8]",
    "    ret",
    // Registers the upcall and binds an event channel of this vCPU's to itself; its port goes to OPERATIONS.
    "paravane_bench_event_setup:",
    "    lea rax, [rip + .Lpvb_upcall]",
    "    push rax",
    "    push 0", // CALLBACKTYPE_event, no flags
    "    xor edi, edi", // CALLBACKOP_register
    "    mov rsi, rsp",
    "    call .Lpvb_page + 32 * {callback_op}",
    "    test rax, rax",
    "    jnz .Lpvb_failed",
    "    add rsp, 8",
    "    mov qword ptr [rsp], 0", // vCPU 0
    "    mov edi, 7", // EVTCHNOP_bind_ipi
    "    mov rsi, rsp",
    "    call .Lpvb_page + 32 * {event_channel_op}",
    "    pop rcx",
    "    shr rcx, 32",
    "    mov [rip + .Lpvb_operations], rcx",
    "    ret",
    // Sends R12 events to itself; the shared page is at word 2. Each upcall comes before the call returns.
    "paravane_bench_event:",
    "    mov rbx, [rip + .Lpvb_command + 16]",
    "    mov rbp, rsp",
    "    xor r14d, r14d",
    ".Lpvb_send:",
    "    mov byte ptr [rbx + 1], 0", // evtchn_upcall_mask
    "    call .Lpvb_start",
    "    mov edi, 4", // EVTCHNOP_send
    "    lea rsi, [rip + .Lpvb_operations]",
    "    call .Lpvb_page + 32 * {event_channel_op}",
    "    ud2",
    ".Lpvb_upcall:",
    "    call .Lpvb_stop",
    "    add r14, rax",
    "    mov rsp, rbp",
    "    mov byte ptr [rbx], 0", // evtchn_upcall_pending
    "    mov qword ptr [rbx + 8], 0", // evtchn_pending_sel
    "    mov qword ptr [rbx + 2048], 0", // evtchn_pending[0]
    "    dec r12",
    "    jnz .Lpvb_send",
    "    mov rax, r14",
    "    xor ebx, ebx",
    "    ret",
    // Sets a handler for page faults, the kernel's stack, and the root of user mode from word 2.
    "paravane_bench_fault_setup:",
    "    push 0",
    "    push 0",
    "    lea rax, [rip + .Lpvb_faulted]",
    "    push rax",
    "    mov eax, {fault_entry}", // struct trap_info: vector, flags, cs
    "    push rax",
    "    mov rdi, rsp",
    "    call .Lpvb_page + 32 * {set_trap_table}",
    "    test rax, rax",
    "    jnz .Lpvb_failed",
    "    mov edi, {ss}",
    "    lea rsi, [rip + .Lpvb_image + {kernel_stack}]",
    "    call .Lpvb_page + 32 * {stack_switch}",
    "    test rax, rax",
    "    jnz .Lpvb_failed",
    "    add rsp, 16",
    "    mov rax, [rip + .Lpvb_command + 16]",
    "    mov [rsp], rax",
    "    push 15", // MMUEXT_NEW_USER_BASEPTR
    "    mov rdi, rsp",
    "    call .Lpvb_mmuext_op",
    "    add rsp, 24",
    "    ret",
    // mmuext_op(RDI, one operation).
    ".Lpvb_mmuext_op:",
    "    mov esi, 1",
    "    xor edx, edx",
    "    mov r10d, {domid_self}",
    "    jmp .Lpvb_page + 32 * {mmuext_op}",
    // Goes to user mode R12 times, and comes back by a page fault; the time is that of the way back.
    "paravane_bench_fault:",
    "    mov rbp, rsp",
    "    xor r14d, r14d",
    ".Lpvb_to_user:",
    "    push {ss}",
    "    push rbp",
    "    push 2",
    "    push {cs}",
    "    lea rax, [rip + .Lpvb_user]",
    "    push rax",
    "    push 0",
    "    jmp .Lpvb_page + 32 * {iret}",
    ".Lpvb_user:",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    mov r13, rax",
    "    mov al, byte ptr ds:[0]",
    "    ud2",
    ".Lpvb_faulted:",
    "    call .Lpvb_stop",
    "    add r14, rax",
    "    mov rsp, rbp",
    "    dec r12",
    "    jnz .Lpvb_to_user",
    "    mov rax, r14",
    "    ret",
    // Loads two roots in turns, R12 times each, by the operations that the host has filled in.
    "paravane_bench_switch:",
    "    call .Lpvb_call_nothing",
    "    call .Lpvb_start",
    "2:  lea rdi, [rip + .Lpvb_operations]",
    "    call .Lpvb_mmuext_op",
    "    test rax, rax",
    "    jnz .Lpvb_failed",
    "    lea rdi, [rip + .Lpvb_operations + 24]",
    "    call .Lpvb_mmuext_op",
    "    test rax, rax",
    "    jnz .Lpvb_failed",
    "    dec r12",
    "    jnz 2b",
    "    jmp .Lpvb_stop",
    // Has its stores to page tables carried out, and its `cli` and `in`.
    "paravane_bench_emulate_setup:",
    "    xor edi, edi", // VMASST_CMD_enable
    "    mov esi, 2", // VMASST_TYPE_writable_pagetables
    "    call .Lpvb_page + 32 * {vm_assist}",
    "    test rax, rax",
    "    jnz .Lpvb_failed",
    "    push 1", // struct physdev_set_iopl: the kernel's own privilege
    "    mov edi, 6", // PHYSDEVOP_set_iopl
    "    mov rsi, rsp",
    "    call .Lpvb_page + 32 * {physdev_op}",
    "    pop rcx",
    "    ret",
    // Calls what is at the gate, which leaves all registers but RAX, RCX and RDX alone.
    "paravane_bench_trap:",
    "    call .Lpvb_gate",
    "    call .Lpvb_start",
    "2:  call .Lpvb_gate",
    "    dec r12",
    "    jnz 2b",
    "    jmp .Lpvb_stop",
    // Stores R12 entries from word 2 on, where a page table is mapped: those of the list at word 3. The list at word 4
    // clears them.
    "paravane_bench_store:",
    "    mov rdi, [rip + .Lpvb_command + 16]",
    "    mov rsi, [rip + .Lpvb_command + 24]",
    "    mov rcx, r12",
    "    call .Lpvb_start",
    "2:  mov rax, [rsi + 8]",
    "    mov [rdi], rax",
    "    add rsi, 16",
    "    add rdi, 8",
    "    dec rcx",
    "    jnz 2b",
    "    call .Lpvb_stop",
    "    mov rbp, rax",
    "    mov rdi, [rip + .Lpvb_command + 32]",
    "    call .Lpvb_mmu_update",
    "    mov rax, rbp",
    "    ret",
    // Runs R12 rounds of the computation at the gate, with words 2 and 3; what it comes to goes to RBX.
    "paravane_bench_compute:",
    "    call .Lpvb_start",
    "    mov rdi, r12",
    "    mov rsi, [rip + .Lpvb_command + 16]",
    "    mov rdx, [rip + .Lpvb_command + 24]",
    "    call .Lpvb_gate",
    "    mov rbx, rax",
    "    jmp .Lpvb_stop",
    ".org .Lpvb_image + {file_size}, 0xcc",
    ".Lpvb_end:",
    // The floors' guest. What it measures follows it, with a `ret`. Once for nothing; RSI pages touched, from RDI
    // on, R8 bytes apart; R12 times, measured; once more to report the ticks, in RAX.
    "paravane_bench_bare:",
    "    call .Lpvb_measured",
    "    test rsi, rsi",
    "    jz 3f",
    "2:  mov byte ptr [rdi], 1",
    "    add rdi, r8",
    "    dec rsi",
    "    jnz 2b",
    "3:  rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    mov r13, rax",
    "2:  call .Lpvb_measured",
    "    dec r12",
    "    jnz 2b",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    sub rax, r13",
    "    call .Lpvb_measured",
    "    ud2",
    ".org paravane_bench_bare + {bare_size}, 0xcc",
    ".Lpvb_measured:",
    ".popsection",
    base = const BASE,
    end = const END,
    file_size = const FILE_SIZE,
    bare_size = const BARE_SIZE,
    hypercall_page = const HYPERCALL_PAGE,
    command = const COMMAND,
    result = const RESULT,
    operations = const OPERATIONS,
    gate = const GATE,
    kernel_stack = const KERNEL_STACK,
    command_size = const COMMAND_SIZE,
    result_size = const RESULT_SIZE,
    note_xen_version = const NoteType::XEN_VERSION.0,
    note_virt_base = const NoteType::VIRT_BASE.0,
    note_hypercall_page = const NoteType::HYPERCALL_PAGE.0,
    set_trap_table = const Number::SET_TRAP_TABLE.0,
    mmu_update = const Number::MMU_UPDATE.0,
    stack_switch = const Number::STACK_SWITCH.0,
    xen_version = const Number::XEN_VERSION.0,
    console_io = const Number::CONSOLE_IO.0,
    iret = const Number::IRET.0,
    mmuext_op = const Number::MMUEXT_OP.0,
    sched_op = const Number::SCHED_OP.0,
    callback_op = const Number::CALLBACK_OP.0,
    event_channel_op = const Number::EVENT_CHANNEL_OP.0,
    vm_assist = const Number::VM_ASSIST.0,
    physdev_op = const Number::PHYSDEV_OP.0,
    domid_self = const pv_abi::DomId::SELF.0,
    fault_entry = const (FLAT_RING3_CS64 as u32) << 16 | 4 << 8 | 14,
    cs = const FLAT_RING3_CS64,
    ss = const FLAT_RING3_SS64,
);

unsafe extern "C" {
    safe static paravane_bench_image: [u8; FILE_SIZE];
    safe static paravane_bench_bare: [u8; BARE_SIZE];
    static paravane_bench_null: u8;
    static paravane_bench_update: u8;
    static paravane_bench_event_setup: u8;
    static paravane_bench_event: u8;
    static paravane_bench_fault_setup: u8;
    static paravane_bench_fault: u8;
    static paravane_bench_switch: u8;
    static paravane_bench_emulate_setup: u8;
    static paravane_bench_trap: u8;
    static paravane_bench_store: u8;
    static paravane_bench_compute: u8;
}

/// What the guest can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The null hypercall, by the gate at [`GATE`].
    Null,
    /// Maps, touches and unmaps pages.
    Update,
    /// Prepares [`Self::Event`].
    EventSetup,
    /// Sends events to its own vCPU, each of which brings an upcall.
    Event,
    /// Prepares [`Self::Fault`].
    FaultSetup,
    /// Page faults in user mode.
    Fault,
    /// Two root tables in turns.
    Switch,
    /// Prepares [`Self::Trap`] and [`Self::Store`].
    EmulateSetup,
    /// The code at [`GATE`], which traps.
    Trap,
    /// Stores to a page table, and takes back what they did.
    Store,
    /// The computation at [`GATE`].
    Compute,
}

impl Program {
    /// Where it is in the guest.
    pub fn address(self) -> u64 {
        let code = match self {
            Self::Null => &raw const paravane_bench_null,
            Self::Update => &raw const paravane_bench_update,
            Self::EventSetup => &raw const paravane_bench_event_setup,
            Self::Event => &raw const paravane_bench_event,
            Self::FaultSetup => &raw const paravane_bench_fault_setup,
            Self::Fault => &raw const paravane_bench_fault,
            Self::Switch => &raw const paravane_bench_switch,
            Self::EmulateSetup => &raw const paravane_bench_emulate_setup,
            Self::Trap => &raw const paravane_bench_trap,
            Self::Store => &raw const paravane_bench_store,
            Self::Compute => &raw const paravane_bench_compute,
        };
        BASE + (code as u64 - &raw const paravane_bench_image as u64)
    }
}

/// The file of the bench's kernel: an ELF image with Xen notes.
pub fn kernel() -> &'static [u8] {
    &paravane_bench_image
}

/// The code of the floors' guest; what it measures is to follow it.
pub fn bare() -> &'static [u8] {
    &paravane_bench_bare
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{KernelImage, Plan, Wishes};

    #[test]
    fn the_image_is_one_that_the_builder_takes() {
        let image = KernelImage::parse(kernel()).unwrap();
        assert_eq!(image.pages(), 0..END / 4096);
        assert_eq!(image.hypercall_page(), Some(HYPERCALL_PAGE / 4096));
        let plan = Plan::new(&image, &Wishes { pages: 1024, ..Wishes::default() }).unwrap();
        assert_eq!(plan.address(0), BASE);
    }

    #[test]
    fn programs_lie_in_the_image() {
        let end = BASE + kernel().len() as u64;
        let programs = [Program::Null, Program::Update, Program::Event, Program::Fault, Program::Switch];
        for program in programs.into_iter().chain([Program::Trap, Program::Store, Program::Compute]) {
            assert!((BASE..end).contains(&program.address()), "{program:?}");
        }
    }
}
