//! Gates: the ways by which a guest makes a hypercall, and the hypercall page that hides them.

use super::area::DOORBELL;
use pv_abi::hypercall::{HYPERCALL_PAGE_ENTRY_SIZE, HypercallNumber};
use pv_abi::{PAGE_SIZE, extension};
use serde::Serialize;
use std::fmt;

/// A way into the hypervisor. Both always work; the hypercall page uses the cheaper one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// The instruction, as Xen's ABI has it.
    Syscall,
    /// A 4-byte store to an address without memory behind it.
    Doorbell,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syscall => "syscall",
            Self::Doorbell => "doorbell",
        })
    }
}

const PUSH_RCX_R11: [u8; 3] = [0x51, 0x41, 0x53];
const POP_R11_RCX_RET: [u8; 4] = [0x41, 0x5b, 0x59, 0xc3];
const PUSH_RAX: u8 = 0x50;
const RET: u8 = 0xc3;

impl Gate {
    /// The code that rings: RAX holds the number already.
    pub fn ring(self) -> Vec<u8> {
        match self {
            Self::Syscall => vec![0x0f, 0x05],
            // mov [DOORBELL], eax
            Self::Doorbell => [&[0xa3][..], &DOORBELL.to_le_bytes()].concat(),
        }
    }

    fn entry(self, number: u64) -> Vec<u8> {
        let load_number = [&[0xb8][..], &(number as u32).to_le_bytes()].concat();
        if number == HypercallNumber::IRET.0 {
            // Completes the frame that the guest has begun (`IretContext`); does not come back.
            return [&PUSH_RCX_R11[..], &[PUSH_RAX], &load_number, &self.ring()].concat();
        }
        match self {
            Self::Syscall => [&PUSH_RCX_R11[..], &load_number, &self.ring(), &POP_R11_RCX_RET].concat(),
            Self::Doorbell => [&load_number[..], &self.ring(), &[RET]].concat(),
        }
    }

    /// Contents of a hypercall page.
    pub fn hypercall_page(self) -> Vec<u8> {
        let mut page = vec![0xcc; PAGE_SIZE];
        for (number, entry) in (0u64..).zip(page.chunks_exact_mut(HYPERCALL_PAGE_ENTRY_SIZE)) {
            let code = self.entry(number);
            entry.iter_mut().zip(code).for_each(|(to, from)| *to = from);
        }
        page
    }
}

const _: () = assert!((extension::HYPERCALL_NUMBER as usize) < PAGE_SIZE / HYPERCALL_PAGE_ENTRY_SIZE);

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    #[test]
    fn every_entry_loads_its_number_and_rings() {
        for gate in [Gate::Syscall, Gate::Doorbell] {
            let page = gate.hypercall_page();
            for (number, entry) in page.chunks_exact(HYPERCALL_PAGE_ENTRY_SIZE).enumerate() {
                let instructions: Vec<_> = Decoder::with_ip(64, entry, 0, DecoderOptions::NONE)
                    .into_iter()
                    .take_while(|instruction| instruction.mnemonic() != Mnemonic::Int3)
                    .collect();
                let loads = |i: &iced_x86::Instruction| {
                    i.mnemonic() == Mnemonic::Mov && i.op_count() == 2 && i.immediate32() as usize == number
                };
                assert!(instructions.iter().any(loads), "{gate} {number}");
                assert!(instructions.iter().all(|i| !i.is_invalid()), "{gate} {number}");
                let ends = if number == 23 {
                    instructions.len() >= 5
                } else {
                    instructions.last().unwrap().mnemonic() == Mnemonic::Ret
                };
                assert!(ends, "{gate} {number}");
            }
        }
    }
}
