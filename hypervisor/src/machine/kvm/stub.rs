//! The stub: the only code at CPL0 in the machine.
//!
//! It has no state, makes no decision and calls nothing. What it reports to and is told by the host travels in
//! registers (`kvm_run`'s sync area) and in one frame on the pcpu's stack:
//!
//! | code | who jumps here | stack | CR3 | then |
//! |---|---|---|---|---|
//! | vector n | an exception, by the IDT | the pcpu's (or an IST stack): the frame that the CPU pushed | the guest's | `out PORT_VECTOR + n`; the host takes over |
//! | resume | the host, with all registers the guest's | frame for `iretq` | the guest's | the guest runs |
//! | load_root | the host, RAX = root | the guest's RAX, then the frame | the last guest's | the guest runs |
//! | write_list | the host, on the scribe: RSI = list of (address, value), ECX = pairs | none | the scribe's root | `out PORT_DONE` |
//!
//! Each entry ends within a bounded number of instructions, none of which a guest can influence. `resume` and
//! `load_root` may be interrupted by a kick anywhere and started again from the beginning: they write no memory.
//! `ud2` behind an `out` is never reached: the host always sets RIP.
//!
//! The gate of `syscall` is no code of CPL0: it stands on a page of its own, where a host's `syscall` that stays at CPL3
//! lands, and its `out` raises #GP there ([`super::entry`]).
#![allow(unsafe_code)] // reads the bytes of the code below

use pv_abi::PAGE_SIZE;
use std::arch::global_asm;

/// Port of vector 0; vector n reports at this plus n.
pub const PORT_VECTOR: u16 = 0x40;
/// Exception vectors there are.
pub const VECTORS: u16 = 32;
/// Port of the gate: CPL3 may use none, so this one is never reached.
const PORT_GATE: u16 = PORT_VECTOR + VECTORS;
/// Port at which the scribe reports that it is done.
pub const PORT_DONE: u16 = PORT_GATE + 1;
/// Bytes from one vector's code to the next.
pub const VECTOR_STRIDE: u64 = 4;

global_asm!(
    ".pushsection .rodata.paravane_stub, \"a\"",
    ".global paravane_stub, paravane_stub_resume, paravane_stub_load_root, paravane_stub_write_list",
    ".global paravane_stub_end, paravane_gate, paravane_gate_end",
    "paravane_stub:",
    ".set .Lparavane_vector, 0",
    ".rept {vectors}",
    "    out {port_vector} + .Lparavane_vector, al",
    "    ud2",
    "    .set .Lparavane_vector, .Lparavane_vector + 1",
    ".endr",
    "paravane_stub_resume:",
    "    iretq",
    "paravane_stub_load_root:",
    "    mov cr3, rax",
    "    pop rax",
    "    iretq",
    "paravane_stub_write_list:",
    "2:  lodsq",
    "    mov rdi, rax",
    "    lodsq",
    "    stosq",
    "    dec ecx",
    "    jnz 2b",
    "    out {port_done}, al",
    "    ud2",
    "paravane_stub_end:",
    ".org paravane_stub + {page}",
    "paravane_gate:",
    "    out {port_gate}, al",
    "    ud2",
    "paravane_gate_end:",
    ".org paravane_gate + {page}",
    ".popsection",
    page = const PAGE_SIZE,
    vectors = const VECTORS,
    port_vector = const PORT_VECTOR,
    port_gate = const PORT_GATE,
    port_done = const PORT_DONE,
);

unsafe extern "C" {
    static paravane_stub: [u8; PAGE_SIZE];
    static paravane_stub_resume: u8;
    static paravane_stub_load_root: u8;
    static paravane_stub_write_list: u8;
    static paravane_stub_end: u8;
    static paravane_gate: [u8; PAGE_SIZE];
    static paravane_gate_end: u8;
}

/// Offsets into the stub's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// Where the code is that returns to the guest under the root that is loaded.
    pub resume: u64,
    /// Loads a root table and returns to the guest.
    pub load_root: u64,
    /// Stores a list of words.
    pub write_list: u64,
}

/// Where the entries are; the vectors start at 0.
pub fn offsets() -> Offsets {
    // SAFETY: only the addresses of the symbols are taken.
    let at = |symbol: *const u8| symbol as u64 - &raw const paravane_stub as u64;
    Offsets {
        resume: at(&raw const paravane_stub_resume),
        load_root: at(&raw const paravane_stub_load_root),
        write_list: at(&raw const paravane_stub_write_list),
    }
}

/// The stub's code, for its page.
pub fn code() -> &'static [u8] {
    // SAFETY: a page of read-only bytes stands there, above.
    bytes(unsafe { &paravane_stub }, &raw const paravane_stub_end)
}

/// The code of the page that `syscall` lands on.
pub fn gate_code() -> &'static [u8] {
    // SAFETY: as above.
    bytes(unsafe { &paravane_gate }, &raw const paravane_gate_end)
}

/// The bytes of a page before `end`.
fn bytes(page: &'static [u8; PAGE_SIZE], end: *const u8) -> &'static [u8] {
    page.get(..end as usize - page.as_ptr() as usize).unwrap_or(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    #[test]
    fn texts_tell_its_size() {
        let size = format!("{} bytes", code().len());
        for text in [include_str!("../../../../README.md"), include_str!("../../../../ARCHITECTURE.md")] {
            let line = text.lines().find(|line| line.contains("stub") && line.contains(" bytes"));
            assert!(line.expect("a line").contains(&size), "{line:?} does not say {size}");
        }
    }

    /// Software KVM interprets CPL0 code and knows few instructions; and what is not there cannot go wrong.
    #[test]
    fn the_stub_consists_of_few_kinds_of_instructions() {
        use Mnemonic::{Dec, Iretq, Jne, Lodsq, Mov, Out, Pop, Stosq, Ud2};
        for code in [code(), gate_code()] {
            for instruction in &mut Decoder::with_ip(64, code, 0, DecoderOptions::NONE) {
                let known = matches!(
                    instruction.mnemonic(),
                    Dec | Iretq | Jne | Lodsq | Mov | Out | Pop | Stosq | Ud2
                );
                assert!(known, "{:#x}: {:?}", instruction.ip(), instruction.mnemonic());
            }
        }
    }

    #[test]
    fn each_vector_reports_at_its_own_port() {
        for vector in 0..VECTORS {
            let at = usize::from(vector) * VECTOR_STRIDE as usize;
            assert_eq!(code()[at..at + 2], [0xe6, (PORT_VECTOR + vector) as u8]);
        }
    }
}
