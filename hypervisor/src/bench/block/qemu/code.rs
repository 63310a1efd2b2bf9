//! The code of QEMU's guest, an ELF file that QEMU starts by its PVH entry: from 32 bits without paging to 64 bits at
//! CPL3, where software KVM runs code at its full speed. There it finds the disk among the virtio-mmio transports, sets
//! up its one queue, and makes the load of [`super::image`] twice: caches fill in the first round, the second is timed.
//! It asks for no interrupts and polls the used ring. Any exception ends it, `ud2` among them: the handler tells what is
//! in [`RESULT`], and ends QEMU.
//!
//! Registers of the load: RBX the transport; RSI the next place; R8 how many are still to be asked for, R9 to be
//! answered; R10 how many entries of the used ring were seen, R11 how many of the other were filled; R12 what marks
//! begin with; R13 sectors of a chunk; R14 the action; R15 whether there is something to notify of; EBP the slot.
#![allow(unsafe_code)] // assembly

use std::arch::global_asm;

/// Physical address of offset 0, and its linear address as well.
pub const BASE: u64 = 0x10_0000;
/// Offset of the handler of all exceptions.
pub const HANDLER: u64 = 0xf00;
/// Bytes of the code, headers and padding included.
pub const CODE_SIZE: usize = 0x1000;
/// The root of the page tables. As of all that follows, the physical address.
pub const ROOT: u64 = BASE + 0x1000;
/// The GDT: flat segments for CPL0 and CPL3, and the TSS.
pub const GDT: u64 = BASE + 0x5000;
/// The segments of the code at CPL0 and at CPL3, and the task state's: selectors in it.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of the data segment at CPL0: see [`KERNEL_CODE`].
pub const KERNEL_DATA: u16 = 0x10;
/// Selector of the data segment at CPL3: see [`KERNEL_CODE`].
pub const USER_DATA: u16 = 0x1b;
/// Selector of the code segment at CPL3: see [`KERNEL_CODE`].
pub const USER_CODE: u16 = 0x23;
/// Selector of the TSS: see [`KERNEL_CODE`].
pub const TASK: u16 = 0x28;
/// What LGDT and LIDT load: ten bytes each.
pub const TABLES: u64 = BASE + 0x5080;
/// The TSS, which names the stack for exceptions.
pub const TASK_STATE: u64 = BASE + 0x5100;
/// The IDT: 32 gates of 16 bytes, all to the handler.
pub const IDT: u64 = BASE + 0x5200;
/// Words that say what to do: see [`super::image`].
pub const WORDS: u64 = BASE + 0x5400;
/// Two words: one of [`super::image`]'s outcomes, and ticks or what was wrong.
pub const RESULT: u64 = BASE + 0x5480;
/// Bytes of the result: two words of 8.
pub const RESULT_SIZE: usize = 16;
/// The descriptor table: [`SLOT`] for each slot, three for a read or a write, then from the fifth on two for a flush.
pub const DESCRIPTORS: u64 = BASE + 0x6000;
/// Descriptors of a slot.
pub const SLOT: u64 = 8;
/// Entries of the queue: descriptors, and entries of each ring.
pub const QUEUE: u64 = 256;
/// The ring of what is asked for.
pub const AVAILABLE: u64 = BASE + 0x7000;
/// The ring of what was done.
pub const USED: u64 = BASE + 0x8000;
/// A request's head for each slot, 16 bytes, the sector in the second half.
pub const HEADS: u64 = BASE + 0x9000;
/// A byte for each slot: how its request ended.
pub const STATUSES: u64 = BASE + 0x9800;
/// The head of every flush.
pub const FLUSH_HEAD: u64 = BASE + 0x9900;
/// Where the stack for exceptions ends.
pub const KERNEL_STACK: u64 = BASE + 0xb000;
/// Where the other stack ends.
pub const USER_STACK: u64 = BASE + 0xc000;
/// The first sector of each chunk, of both rounds.
pub const PLACES: u64 = BASE + 0x1_0000;
/// Most places there are, of both rounds together; 8 bytes each.
pub const MOST_PLACES: usize = 0x4000;
/// A chunk for each slot.
pub const BUFFERS: u64 = BASE + 0x4_0000;
/// Where the file's LOAD segment ends in memory, behind the buffers.
pub const END: u64 = BASE + 0xc_0000;
/// Bytes of the ELF file: everything up to the last place.
pub const FILE_SIZE: usize = (PLACES - BASE) as usize + MOST_PLACES * 8;
/// The first transport of QEMU's machine `microvm`.
pub const TRANSPORTS: u64 = 0xfeb0_0000;
/// The port of `isa-debugcon`.
pub const CONSOLE_PORT: u16 = 0xe9;
/// The port of `isa-debug-exit`.
pub const EXIT_PORT: u16 = 0xf4;

global_asm!(
    ".pushsection .rodata.paravane_bench_qemu, \"a\"",
    ".balign 8",
    ".global paravane_bench_qemu",
    "paravane_bench_qemu:",
    ".Lpvq_image:",
    // Elf64_Ehdr: a 64-bit little-endian executable for x86-64, with two program headers.
    "    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    "    .short 2, 62",
    "    .long 1",
    "    .quad {base} + .Lpvq_entry - .Lpvq_image, 64, 0",
    "    .long 0",
    "    .short 64, 56, 2, 64, 0, 0",
    // PT_LOAD: the whole file at the base.
    "    .long 1, 7",
    "    .quad 0, {base}, {base}, {file_size}, {end} - {base}, 4096",
    // PT_NOTE: XEN_ELFNOTE_PHYS32_ENTRY.
    "    .long 4, 4",
    "    .quad .Lpvq_note - .Lpvq_image, 0, 0, .Lpvq_entry - .Lpvq_note, 0, 4",
    ".Lpvq_note:",
    "    .long 4, 8, 18",
    "    .asciz \"Xen\"",
    "    .quad {base} + .Lpvq_entry - .Lpvq_image",
    ".code32",
    ".Lpvq_entry:",
    "    cld",
    "    mov eax, {tables}",
    "    lgdt [eax]",
    "    mov eax, cr4",
    "    or eax, 0x20", // PAE
    "    mov cr4, eax",
    "    mov eax, {root}",
    "    mov cr3, eax",
    "    mov ecx, 0xc0000080", // EFER.LME
    "    rdmsr",
    "    or eax, 0x100",
    "    wrmsr",
    "    mov eax, cr0",
    "    or eax, 0x80000001", // PG, PE
    "    mov cr0, eax",
    "    .byte 0xea", // a far jump
    "    .long {base} + .Lpvq_long - .Lpvq_image",
    "    .short {kernel_code}",
    ".code64",
    ".Lpvq_long:",
    "    mov eax, {kernel_data}",
    "    mov ss, eax",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov esp, {kernel_stack}",
    "    mov eax, {tables}",
    "    lidt [rax + 16]",
    "    mov eax, {task}",
    "    ltr ax",
    "    push {user_data}",
    "    push {user_stack}",
    "    push 2",
    "    push {user_code}",
    "    lea rax, [rip + .Lpvq_user]",
    "    push rax",
    "    iretq",
    // The disk is where the device's number is 2. RBX: transports, ECX: how many there can be.
    ".Lpvq_user:",
    "    mov ebx, {transports}",
    "    mov ecx, 24",
    "2:  mov eax, [rbx + 8]",
    "    cmp eax, 2",
    "    je 3f",
    "    add rbx, 0x200",
    "    dec ecx",
    "    jnz 2b",
    ".Lpvq_no_disk:",
    "    mov eax, 2",
    "    jmp .Lpvq_end",
    "3:  mov eax, [rbx + 4]", // the version: not the old interface
    "    cmp eax, 2",
    "    jne .Lpvq_no_disk",
    "    mov dword ptr [rbx + 0x70], 0", // the device's status: reset, there is a driver
    "    mov dword ptr [rbx + 0x70], 3",
    "    mov dword ptr [rbx + 0x24], 0", // features: VIRTIO_BLK_F_FLUSH, without which each write would be flushed
    "    mov dword ptr [rbx + 0x20], 0x200",
    "    mov dword ptr [rbx + 0x24], 1", // VIRTIO_F_VERSION_1
    "    mov dword ptr [rbx + 0x20], 1",
    "    mov dword ptr [rbx + 0x70], 11",
    "    mov eax, [rbx + 0x70]",
    "    test eax, 8", // it takes them
    "    jz .Lpvq_no_disk",
    "    mov dword ptr [rbx + 0x30], 0", // queue 0, its size and parts
    "    mov dword ptr [rbx + 0x38], {queue}",
    "    mov dword ptr [rbx + 0x80], {descriptors}",
    "    mov dword ptr [rbx + 0x84], 0",
    "    mov dword ptr [rbx + 0x90], {available}",
    "    mov dword ptr [rbx + 0x94], 0",
    "    mov dword ptr [rbx + 0xa0], {used}",
    "    mov dword ptr [rbx + 0xa4], 0",
    "    mov dword ptr [rbx + 0x44], 1",
    "    mov dword ptr [rbx + 0x70], 15",
    "    xor r10d, r10d",
    "    xor r11d, r11d",
    "    mov esi, {places}",
    "    mov r13, ds:[{words} + 16]",
    "    mov r14, ds:[{words} + 24]",
    "    mov r12, ds:[{words} + 32]",
    "    call .Lpvq_round",
    "    mov r12, ds:[{words} + 40]",
    "    call .Lpvq_round",
    "    mov rdx, rax",
    "    mov eax, 1",
    // EAX: the outcome, RDX: the other word.
    ".Lpvq_end:",
    "    mov ds:[{result}], rax",
    "    mov ds:[{result} + 8], rdx",
    "    ud2",
    // All chunks of a round. RAX: ticks.
    ".Lpvq_round:",
    "    mov r8, ds:[{words}]",
    "    mov r9, r8",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    push rax",
    "    xor ebp, ebp",
    "2:  call .Lpvq_ask",
    "    inc ebp",
    "    cmp ebp, ds:[{words} + 8]",
    "    jb 2b",
    ".Lpvq_notify:",
    "    xor r15d, r15d",
    "    mfence",
    "    test byte ptr ds:[{used}], 1", // VIRTQ_USED_F_NO_NOTIFY
    "    jnz .Lpvq_wait",
    "    mov dword ptr [rbx + 0x50], 0",
    ".Lpvq_wait:",
    "    cmp r10w, ds:[{used} + 2]",
    "    jne .Lpvq_done",
    "    pause",
    "    jmp .Lpvq_wait",
    ".Lpvq_done:",
    "    movzx eax, r10b",
    "    mov eax, [{used} + 4 + rax * 8]",
    "    inc r10d",
    "    mov ebp, eax",
    "    shr ebp, 3",
    "    movzx edx, byte ptr [{statuses} + rbp]",
    "    test edx, edx",
    "    jnz .Lpvq_refused",
    "    test al, 4",
    "    jnz .Lpvq_answered", // that was the flush
    "    cmp r14d, 1",
    "    je .Lpvq_answered",
    "    jb .Lpvq_check",
    "    lea eax, [rbp * 8 + 4]",
    "    call .Lpvq_publish",
    "    jmp .Lpvq_next",
    // What was read is looked at, and spoiled, so that the next look is not at it.
    ".Lpvq_check:",
    "    call .Lpvq_chunk",
    "2:  cmp [rdi], rdx",
    "    jne .Lpvq_wrong",
    "    mov qword ptr [rdi], 0",
    "    add rdi, 512",
    "    inc rdx",
    "    dec ecx",
    "    jnz 2b",
    ".Lpvq_answered:",
    "    dec r9",
    "    jz .Lpvq_all",
    "    test r8, r8",
    "    jz .Lpvq_next",
    "    call .Lpvq_ask",
    ".Lpvq_next:",
    "    cmp r10w, ds:[{used} + 2]",
    "    jne .Lpvq_done",
    "    test r15d, r15d",
    "    jz .Lpvq_wait",
    "    jmp .Lpvq_notify",
    ".Lpvq_all:",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    pop rdx",
    "    sub rax, rdx",
    "    ret",
    ".Lpvq_refused:",
    "    mov eax, 3",
    "    jmp .Lpvq_end",
    ".Lpvq_wrong:",
    "    mov eax, 4",
    "    jmp .Lpvq_end",
    // Slot EBP's chunk: RDI the address, RDX its first mark, ECX its sectors.
    ".Lpvq_chunk:",
    "    mov ecx, r13d",
    "    mov edi, ebp",
    "    imul edi, r13d",
    "    shl edi, 9",
    "    add edi, {buffers}",
    "    mov edx, ebp",
    "    shl edx, 4",
    "    mov rdx, [{heads} + 8 + rdx]",
    "    or rdx, r12",
    "    ret",
    // Asks for the next chunk in slot EBP.
    ".Lpvq_ask:",
    "    dec r8",
    "    lodsq",
    "    mov edx, ebp",
    "    shl edx, 4",
    "    mov [{heads} + 8 + rdx], rax",
    "    test r14d, r14d",
    "    jz 3f",
    "    call .Lpvq_chunk",
    "2:  mov [rdi], rdx",
    "    add rdi, 512",
    "    inc rdx",
    "    dec ecx",
    "    jnz 2b",
    "3:  lea eax, [rbp * 8]",
    // Publishes descriptor EAX.
    ".Lpvq_publish:",
    "    movzx edx, r11b",
    "    mov [{available} + 4 + rdx * 2], ax",
    "    inc r11d",
    "    mov ds:[{available} + 2], r11w",
    "    mov r15d, 1",
    "    ret",
    ".org .Lpvq_image + {handler}, 0xcc",
    "    mov esi, {result}",
    "    mov ecx, {result_size}",
    "    mov edx, {console_port}",
    "2:  lodsb",
    "    out dx, al",
    "    dec ecx",
    "    jnz 2b",
    "    mov edx, {exit_port}",
    "    out dx, al",
    "3:  hlt",
    "    jmp 3b",
    ".org .Lpvq_image + {code_size}, 0xcc",
    ".popsection",
    base = const BASE,
    handler = const HANDLER,
    code_size = const CODE_SIZE,
    file_size = const FILE_SIZE,
    end = const END,
    tables = const TABLES,
    root = const ROOT,
    kernel_code = const KERNEL_CODE,
    kernel_data = const KERNEL_DATA,
    kernel_stack = const KERNEL_STACK,
    task = const TASK,
    user_code = const USER_CODE,
    user_data = const USER_DATA,
    user_stack = const USER_STACK,
    transports = const TRANSPORTS,
    queue = const QUEUE,
    descriptors = const DESCRIPTORS,
    available = const AVAILABLE,
    used = const USED,
    places = const PLACES,
    words = const WORDS,
    result = const RESULT,
    result_size = const RESULT_SIZE,
    heads = const HEADS,
    statuses = const STATUSES,
    buffers = const BUFFERS,
    console_port = const CONSOLE_PORT,
    exit_port = const EXIT_PORT,
);

unsafe extern "C" {
    safe static paravane_bench_qemu: [u8; CODE_SIZE];
}

/// The code, from offset 0 on.
pub fn code() -> &'static [u8] {
    &paravane_bench_qemu
}
