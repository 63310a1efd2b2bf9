//! Instructions that trapped, in the decoder's words. Pure: bytes in, an instruction out.

use crate::machine::Context;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic};
use pv_abi::cpuid::EMULATE_PREFIX;

/// Decodes the instruction that `bytes`, fetched where `context` is, start with. Behind the prefix that asks the
/// hypervisor nothing but `cpuid` has a meaning; it counts to the instruction's length. None where there is no instruction.
pub fn decode(bytes: &[u8], context: &Context) -> Option<Instruction> {
    let (_, bitness) = context.code_segment();
    let decoder =
        |bytes| Decoder::with_ip(bitness, bytes, context.registers.rip, DecoderOptions::NONE).decode();
    let Some(rest) = bytes.strip_prefix(&EMULATE_PREFIX) else {
        return Some(decoder(bytes)).filter(|instruction| !instruction.is_invalid());
    };
    let mut cpuid = decoder(rest);
    let is_plain = cpuid.code() == Code::Cpuid && cpuid.len() == 2;
    cpuid.set_len(cpuid.len().saturating_add(EMULATE_PREFIX.len()));
    is_plain.then_some(cpuid)
}

/// The name of a privileged instruction, which no program can execute: `hlt`, say, or `mov cr4, rax`.
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
    use crate::machine::Root;

    /// Code and length of what 64-bit code has there.
    fn decoded(bytes: &[u8]) -> Option<(Code, usize)> {
        let context = Context::new(1, Root::NONE, 0x1000);
        decode(bytes, &context).map(|instruction| (instruction.code(), instruction.len()))
    }

    #[test]
    fn the_prefix_is_part_of_cpuid_and_of_nothing_else() {
        assert_eq!(decoded(b"\x0f\x0bxen\x0f\xa2"), Some((Code::Cpuid, 7)));
        for other in [&b"\x0f\x0bxen\x0f\xa3"[..], b"\x0f\x0bxen\x66\x0f\xa2", b"\x0f\x0bxen\x0f\x22\xd8"] {
            assert_eq!(decoded(other), None, "{other:x?}");
        }
        assert_eq!(decoded(b"\x0f\x0bxen"), None, "cut off");
        assert_eq!(decoded(b"\x0f\x0b"), Some((Code::Ud2, 2)), "what a kernel ends with");
    }

    #[test]
    fn what_is_cut_off_or_locked_is_no_instruction() {
        for bytes in [&[][..], &[0xcd], &[0x0f], &[0xf0, 0x0f, 0x22, 0xd8], &[0xf0, 0xfa]] {
            assert_eq!(decoded(bytes), None, "{bytes:x?}");
        }
        assert_eq!(decoded(&[0xcd, 0x80]), Some((Code::Int_imm8, 2)));
        assert_eq!(decoded(&[0x0f, 0x34]), Some((Code::Sysenter, 2)));
    }

    #[test]
    fn code_is_that_of_its_segment() {
        let mut context = Context::new(1, Root::NONE, 0x1000);
        let code = |context: &Context| decode(&[0x48, 0xec], context).map(|instruction| instruction.code());
        assert_eq!(code(&context), Some(Code::In_AL_DX), "behind a prefix");
        context.cs = pv_abi::segment::FLAT_RING3_CS32;
        assert_eq!(code(&context), Some(Code::Dec_r32));
    }
}
