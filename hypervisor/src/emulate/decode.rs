//! What an instruction that trapped asks for, as far as the hypervisor has an answer. Pure: bytes in, meaning out.

use super::operand;
use crate::machine::Registers;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use pv_abi::cpuid::EMULATE_PREFIX;

/// Bytes of `cpuid` behind its prefix.
const PREFIXED_CPUID: u64 = EMULATE_PREFIX.len() as u64 + 2;

/// An instruction that the hypervisor carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// `int n`.
    SoftwareInterrupt {
        /// The vector.
        vector: u8,
        /// Bytes of the instruction.
        length: u64,
    },
    /// `cpuid` behind the prefix that asks the hypervisor.
    Cpuid {
        /// Bytes of the instruction, prefix included.
        length: u64,
    },
    /// A plain load from memory into a general register.
    Load {
        /// Bytes loaded: 1, 2, 4 or 8.
        size: u8,
        /// The register.
        into: Target,
        /// Bytes of the instruction.
        length: u64,
    },
    /// `cli`, `sti`, or port I/O of one element: for a kernel with I/O privilege there is nothing behind them.
    Io {
        /// Bytes that an input reads; all ones.
        reads: Option<Target>,
        /// Bytes of the instruction.
        length: u64,
    },
    /// `sysenter`.
    Sysenter,
    /// `syscall`.
    Syscall {
        /// Bytes of the instruction.
        length: u64,
    },
    /// Anything else.
    Other,
}

/// A general register, and how much of it an instruction writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    register: Register,
}

impl Target {
    fn new(register: Register) -> Option<Self> {
        register.is_gpr().then_some(Self { register })
    }

    /// Writes `value`, as much of it as the register holds.
    pub fn write(self, registers: &mut Registers, value: u64) {
        // It is a general register.
        let _ = operand::write(registers, self.register, value);
    }
}

/// Decodes the instruction that `bytes` start with.
pub fn decode(bytes: &[u8]) -> Decoded {
    if let Some(rest) = bytes.strip_prefix(&EMULATE_PREFIX) {
        let cpuid = rest.starts_with(&[0x0f, 0xa2]);
        return if cpuid { Decoded::Cpuid { length: PREFIXED_CPUID } } else { Decoded::Other };
    }
    let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    let length = instruction.len() as u64;
    match instruction.code() {
        Code::Int_imm8 => Decoded::SoftwareInterrupt { vector: instruction.immediate8(), length },
        Code::Sysenter => Decoded::Sysenter,
        Code::Syscall => Decoded::Syscall { length },
        Code::Cli | Code::Sti => Decoded::Io { reads: None, length },
        _ => match instruction.mnemonic() {
            Mnemonic::Out => Decoded::Io { reads: None, length },
            Mnemonic::In => Decoded::Io { reads: Target::new(instruction.op0_register()), length },
            Mnemonic::Mov | Mnemonic::Movzx => load(&instruction),
            _ => Decoded::Other,
        },
    }
}

fn load(instruction: &Instruction) -> Decoded {
    let from_memory = instruction.op0_kind() == OpKind::Register && instruction.op1_kind() == OpKind::Memory;
    let size = instruction.memory_size().size();
    match (from_memory, Target::new(instruction.op0_register()), u8::try_from(size)) {
        (true, Some(into), Ok(size @ (1 | 2 | 4 | 8))) => {
            Decoded::Load { size, into, length: instruction.len() as u64 }
        }
        _ => Decoded::Other,
    }
}

/// The name of a privileged instruction, which no guest can execute: `hlt`, say, or `mov cr4, rax`.
pub fn privileged(code: &[u8]) -> Option<String> {
    let instruction = Decoder::with_ip(64, code, 0, DecoderOptions::NONE).decode();
    let registers = || (instruction.op0_register(), instruction.op1_register());
    let name = match (instruction.is_privileged(), instruction.mnemonic(), registers()) {
        (false, ..) => return None,
        (true, Mnemonic::Mov, (to, from)) => format!("mov {to:?}, {from:?}"),
        (true, mnemonic, _) => format!("{mnemonic:?}"),
    };
    Some(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_of(bytes: &[u8]) -> (u8, u64, Registers) {
        let Decoded::Load { size, into, length } = decode(bytes) else { panic!("{:?}", decode(bytes)) };
        let mut registers = Registers { rax: !0, rcx: !0, r9: !0, ..Registers::default() };
        into.write(&mut registers, 0x1122_3344_5566_7788);
        (size, length, registers)
    }

    #[test]
    fn software_interrupts_and_the_prefixed_cpuid() {
        assert_eq!(decode(&[0xcd, 0x80]), Decoded::SoftwareInterrupt { vector: 0x80, length: 2 });
        assert_eq!(decode(b"\x0f\x0bxen\x0f\xa2"), Decoded::Cpuid { length: 7 });
        assert_eq!(decode(b"\x0f\x0bxen\x0f\xa3"), Decoded::Other);
        assert_eq!(decode(b"\x0f\x0b"), Decoded::Other);
        assert_eq!(decode(&[0x0f, 0x34]), Decoded::Sysenter);
        assert_eq!(decode(&[0x0f, 0x05]), Decoded::Syscall { length: 2 });
        assert_eq!(decode(&[0xcd]), Decoded::Other, "cut off");
        assert_eq!(decode(&[]), Decoded::Other);
    }

    #[test]
    fn loads_write_as_much_as_the_processor_does() {
        let (size, length, registers) = load_of(&[0x48, 0x8b, 0x04, 0xf8]); // mov rax, [rax+rdi*8]
        assert_eq!((size, length, registers.rax), (8, 4, 0x1122_3344_5566_7788));
        let (size, _, registers) = load_of(&[0x44, 0x8b, 0x08]); // mov r9d, [rax]
        assert_eq!((size, registers.r9), (4, 0x5566_7788));
        let (size, _, registers) = load_of(&[0x66, 0x8b, 0x08]); // mov cx, [rax]
        assert_eq!((size, registers.rcx), (2, 0xffff_ffff_ffff_7788));
        let (size, _, registers) = load_of(&[0x0f, 0xb6, 0x08]); // movzx ecx, byte [rax]
        assert_eq!((size, registers.rcx), (1, 0x5566_7788), "the caller truncates to the size loaded");
    }

    #[test]
    fn stores_and_vectors_are_not_loads() {
        for bytes in [&[0x48, 0x89, 0x08][..], &[0x0f, 0x6f, 0x00], &[0x48, 0x8b, 0xc1]] {
            assert_eq!(decode(bytes), Decoded::Other, "{bytes:x?}");
        }
    }
}
