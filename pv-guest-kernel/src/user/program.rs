//! The programs, each a few lines of position-independent assembly.
//!
//! They are data of the image, in a section that the kernel never executes: it is copied to user pages.
//! So the instructions that some of them try, and that the kernel must not contain, are not the kernel's.

use core::arch::global_asm;
use core::ops::RangeInclusive;

use super::system_call::number;

/// A program of the image.
pub struct Program {
    pub name: &'static str,
    /// What it does, with N for its argument.
    pub about: &'static str,
    /// Arguments that the shell accepts for N; 0 alone where the program takes none.
    pub numbers: RangeInclusive<u64>,
    /// Its machine code, and `int3` behind it.
    pub code: &'static [u8; SIZE],
}

/// Bytes that each program has in the image: not more than a page.
const SIZE: usize = 1024;

/// For programs that take no number.
const NONE: RangeInclusive<u64> = 0..=0;
const ANY: RangeInclusive<u64> = 0..=u64::MAX;
/// As many as can be counted in nanoseconds, and added to a time.
const MOST_MILLISECONDS: u64 = 1 << 42;

/// Finds a program by its name.
pub fn find(name: &str) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.name == name)
}

/// Defines the table of programs. RDI is a program's argument at its start.
macro_rules! programs {
    ($($label:ident $name:literal, $about:literal, $numbers:expr => $($line:literal)*;)*) => {
        $(global_asm!(
            ".pushsection .user_programs, \"a\"",
            concat!("program_", stringify!($label), ":"),
            $($line,)*
            concat!(".org program_", stringify!($label), " + {size}, 0xcc"),
            ".popsection",
            size = const SIZE,
        );)*

        mod label {
            use super::SIZE;

            unsafe extern "C" {
                $(
                    #[link_name = concat!("program_", stringify!($label))]
                    pub static $label: [u8; SIZE];
                )*
            }
        }

        /// All programs, in the order in which they are listed below.
        pub static PROGRAMS: &[Program] = &[
            $(Program {
                name: $name,
                about: $about,
                numbers: $numbers,
                // SAFETY: so many bytes stand there, above, and nothing writes them.
                code: unsafe { &label::$label },
            },)*
        ];
    };
}

global_asm!(
    ".macro SYSTEM_CALL number",
    "mov eax, \\number",
    "syscall",
    ".endm",
    ".macro EXIT code",
    "mov edi, \\code",
    "SYSTEM_CALL EXIT_NUMBER",
    "ud2",
    ".endm",
    ".set EXIT_NUMBER, {exit}",
    ".set WRITE, {write}",
    ".set CLOCK, {clock}",
    ".set SLEEP, {sleep}",
    ".set ALLOCATE, {allocate}",
    ".set YIELD, {yield_}",
    exit = const number::EXIT,
    write = const number::WRITE,
    clock = const number::CLOCK,
    sleep = const number::SLEEP,
    allocate = const number::ALLOCATE,
    yield_ = const number::YIELD,
);

programs! {
    hello "hello", "says hello", NONE =>
        "lea rdi, [rip + 2f]"
        "lea rsi, [rip + 3f]"
        "sub rsi, rdi"
        "SYSTEM_CALL WRITE"
        "EXIT 0"
        "2: .ascii \"hello from user mode\\n\""
        "3:";

    count "count", "counts to N, at most 9, 50 ms apart", 0..=9 =>
        "mov r12, rdi"
        "mov r13d, 1"
        "4: cmp r13, r12"
        "ja 5f"
        "lea eax, [r13 + 48]"
        "push 10"
        "push rax"
        "mov al, 10"
        "mov [rsp + 1], al"
        "mov rdi, rsp"
        "mov esi, 2"
        "SYSTEM_CALL WRITE"
        "add rsp, 16"
        "mov edi, 50000000"
        "SYSTEM_CALL SLEEP"
        "inc r13"
        "jmp 4b"
        "5: EXIT 0";

    spin "spin", "burns processor time for N ms", 0..=MOST_MILLISECONDS =>
        "imul r12, rdi, 1000000"
        "SYSTEM_CALL CLOCK"
        "add r12, rax"
        "6: mov ecx, 100000"
        "7: dec ecx"
        "jnz 7b"
        "SYSTEM_CALL CLOCK"
        "cmp rax, r12"
        "jb 6b"
        "EXIT 0";

    vectors "vectors", "keeps N in vector registers across preemption for 50 ms", ANY =>
        "movq xmm0, rdi"
        "movq xmm15, rdi"
        "mov r13, rdi"
        "SYSTEM_CALL CLOCK"
        "lea r12, [rax + 50000000]"
        "8: mov ecx, 100000"
        "9: dec ecx"
        "jnz 9b"
        "movq rax, xmm0"
        "cmp rax, r13"
        "jne 18f"
        "movq rax, xmm15"
        "cmp rax, r13"
        "jne 18f"
        "SYSTEM_CALL CLOCK"
        "cmp rax, r12"
        "jb 8b"
        "EXIT 0"
        "18: EXIT 1";

    harmonic "harmonic", "sums 1/k from N on, in x87 and in vector registers, for 200 ms; fails if a sum differs", ANY =>
        "mov r14, rdi"
        "xor r13d, r13d"
        "SYSTEM_CALL CLOCK"
        "lea r12, [rax + 200000000]"
        "mov eax, 1"
        "cvtsi2sd xmm2, eax"
        "fninit"
        "19: cvtsi2sd xmm1, r14"
        "xorpd xmm0, xmm0"
        "push r14"
        "fild qword ptr [rsp]"
        "fldz"
        "mov ecx, 100000"
        "20: movapd xmm3, xmm2"
        "divsd xmm3, xmm1"
        "addsd xmm0, xmm3"
        "addsd xmm1, xmm2"
        "fld1"
        "fdiv st, st(2)"
        "faddp st(1), st"
        "fxch st(1)"
        "fld1"
        "faddp st(1), st"
        "fxch st(1)"
        "dec ecx"
        "jnz 20b"
        "fstp qword ptr [rsp]"
        "fstp st(0)"
        "pop rbx"
        "movq rax, xmm0"
        "test r13, r13"
        "jnz 22f"
        "mov r13, rax"
        "mov r15, rbx"
        "22: cmp rax, r13"
        "jne 23f"
        "cmp rbx, r15"
        "jne 23f"
        "SYSTEM_CALL CLOCK"
        "cmp rax, r12"
        "jb 19b"
        "EXIT 0"
        "23: EXIT 1";

    flags "flags", "exits with its flags register", NONE =>
        "pushfq"
        "pop rdi"
        "SYSTEM_CALL EXIT_NUMBER";

    eat_memory "eat-memory", "takes all memory that it can get", NONE =>
        "12: mov edi, 64"
        "SYSTEM_CALL ALLOCATE"
        "test rax, rax"
        "js 13f"
        "mov [rax], rax"
        "jmp 12b"
        "13: EXIT 0";

    int80 "int80", "makes its system calls by int 0x80", NONE =>
        "lea rdi, [rip + 14f]"
        "lea rsi, [rip + 15f]"
        "sub rsi, rdi"
        "mov eax, WRITE"
        "int 0x80"
        "xor edi, edi"
        "mov eax, EXIT_NUMBER"
        "int 0x80"
        "ud2"
        "14: .ascii \"hello by int 0x80\\n\""
        "15:";

    bad_pointer "bad-pointer", "passes kernel addresses to system calls; fails if one is taken", NONE =>
        "mov rdi, -0x80000000"
        "mov esi, 16"
        "SYSTEM_CALL WRITE"
        "cmp rax, -14"
        "jne 16f"
        "xor edi, edi"
        "mov esi, 16"
        "SYSTEM_CALL WRITE"
        "cmp rax, -14"
        "jne 16f"
        "EXIT 0"
        "16: EXIT 1";

    fault_null "fault-null", "reads address 0", NONE =>
        "xor eax, eax"
        "mov eax, [rax]"
        "EXIT 0";

    fault_read_kernel "fault-read-kernel", "reads the kernel's memory", NONE =>
        "mov rax, -0x7ff00000"
        "mov eax, [rax]"
        "EXIT 0";

    fault_write_kernel "fault-write-kernel", "writes the kernel's memory", NONE =>
        "mov rax, -0x7ff00000"
        "mov [rax], eax"
        "EXIT 0";

    fault_write_code "fault-write-code", "writes its own code", NONE =>
        "lea rax, [rip]"
        "mov [rax], eax"
        "EXIT 0";

    fault_execute_data "fault-execute-data", "jumps to its stack", NONE =>
        "lea rax, [rsp - 8]"
        "jmp rax";

    fault_stack "fault-stack", "overflows its stack", NONE =>
        "17: push rax"
        "jmp 17b";

    fault_privileged "fault-privileged", "executes hlt", NONE =>
        "hlt"
        "EXIT 0";

    fault_port "fault-port", "writes an I/O port", NONE =>
        "mov edx, 0x80"
        "out dx, al"
        "EXIT 0";

    fault_msr "fault-msr", "writes a model-specific register", NONE =>
        "mov ecx, 0xc0000080"
        "xor eax, eax"
        "xor edx, edx"
        "wrmsr"
        "EXIT 0";

    fault_control_register "fault-control-register", "loads a root page table", NONE =>
        "xor eax, eax"
        "mov cr3, rax"
        "EXIT 0";

    fault_jump_noncanonical "fault-jump-noncanonical", "jumps to an address that cannot exist", NONE =>
        "mov rax, 0x8000000000000000"
        "jmp rax";

    fault_divide "fault-divide", "divides by zero", NONE =>
        "xor edx, edx"
        "xor ecx, ecx"
        "div ecx"
        "EXIT 0";

    fault_undefined "fault-undefined", "executes an undefined instruction", NONE =>
        "ud2";

    fault_breakpoint "fault-breakpoint", "executes a breakpoint", NONE =>
        "int3"
        "EXIT 0";

    fault_int21 "fault-int21", "raises a vector that is the kernel's alone", NONE =>
        "int 0x21"
        "EXIT 0";
}
