//! Operands of an instruction, by the decoder's names: registers, and addresses of memory.

use crate::machine::{Context, Registers};
use iced_x86::{Instruction, Register};

/// A general register's bits, from bit 0 on. None where `register` is not one.
pub fn read(registers: &Registers, register: Register) -> Option<u64> {
    let mut copy = *registers;
    let whole = *slot(&mut copy, register.full_register())?;
    Some(match (register.size(), is_high_byte(register)) {
        (1, true) => whole >> 8 & 0xff,
        (1, false) => whole & 0xff,
        (2, _) => whole & 0xffff,
        (4, _) => whole & 0xffff_ffff,
        _ => whole,
    })
}

/// Writes a general register as the processor does: 32 bits clear the upper half, 8 and 16 keep all others. None, and
/// nothing is written, where `register` is not one.
pub fn write(registers: &mut Registers, register: Register, value: u64) -> Option<()> {
    let slot = slot(registers, register.full_register())?;
    *slot = match (register.size(), is_high_byte(register)) {
        (1, true) => *slot & !0xff00 | (value & 0xff) << 8,
        (1, false) => *slot & !0xff | value & 0xff,
        (2, _) => *slot & !0xffff | value & 0xffff,
        (4, _) => value & 0xffff_ffff,
        _ => value,
    };
    Some(())
}

/// The linear address of operand number `operand`, which is memory. `instruction` was decoded at the RIP that stands in
/// `context`, and is 64-bit code. None where the operand has no address.
pub fn address(instruction: &Instruction, operand: u32, context: &Context) -> Option<u64> {
    instruction.virtual_address(operand, 0, |register, _, _| match register {
        Register::FS => Some(context.fs_base),
        Register::GS => Some(context.gs_base),
        // Others have base 0 in 64-bit code.
        register if register.is_segment_register() => Some(0),
        register => read(&context.registers, register),
    })
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::BH | Register::CH | Register::DH)
}

fn slot(registers: &mut Registers, register: Register) -> Option<&mut u64> {
    Some(match register {
        Register::RAX => &mut registers.rax,
        Register::RBX => &mut registers.rbx,
        Register::RCX => &mut registers.rcx,
        Register::RDX => &mut registers.rdx,
        Register::RSI => &mut registers.rsi,
        Register::RDI => &mut registers.rdi,
        Register::RBP => &mut registers.rbp,
        Register::RSP => &mut registers.rsp,
        Register::R8 => &mut registers.r8,
        Register::R9 => &mut registers.r9,
        Register::R10 => &mut registers.r10,
        Register::R11 => &mut registers.r11,
        Register::R12 => &mut registers.r12,
        Register::R13 => &mut registers.r13,
        Register::R14 => &mut registers.r14,
        Register::R15 => &mut registers.r15,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Root;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn each_part_of_a_register_is_read_and_written_as_the_processor_does() {
        const OLD: u64 = 0x1122_3344_5566_7788;
        const NEW: u64 = 0xa1a2_a3a4_a5a6_a7a8;
        for (register, value, left) in [
            (Register::RCX, OLD, NEW),
            (Register::ECX, 0x5566_7788, 0xa5a6_a7a8),
            (Register::CX, 0x7788, 0x1122_3344_5566_a7a8),
            (Register::CL, 0x88, 0x1122_3344_5566_77a8),
            (Register::CH, 0x77, 0x1122_3344_5566_a888),
        ] {
            let mut registers = Registers { rcx: OLD, ..Registers::default() };
            assert_eq!(read(&registers, register), Some(value), "{register:?}");
            assert_eq!(write(&mut registers, register, NEW), Some(()));
            assert_eq!(registers, Registers { rcx: left, ..Registers::default() }, "{register:?}");
        }
        for register in [Register::CR3, Register::XMM0, Register::FS, Register::RIP, Register::None] {
            let mut registers = Registers::default();
            assert_eq!((read(&registers, register), write(&mut registers, register, 1)), (None, None));
        }
    }

    #[test]
    fn an_address_has_the_base_of_its_segment() {
        let mut context = Context::new(1, Root::NONE, 0x1000);
        context.registers = Registers { rax: 0x10, rdi: 3, rip: 0x1000, ..context.registers };
        (context.fs_base, context.gs_base) = (0x7000_0000, 0x9000_0000);
        for (bytes, expected) in [
            (&[0x48, 0x89, 0x4c, 0xf8, 0x05][..], 0x10 + 3 * 8 + 5), // mov [rax+rdi*8+5], rcx
            (&[0x65, 0x48, 0x89, 0x08], 0x9000_0010),                // mov gs:[rax], rcx
            (&[0x64, 0x48, 0x89, 0x08], 0x7000_0010),                // mov fs:[rax], rcx
            (&[0x48, 0x89, 0x0d, 0x10, 0, 0, 0], 0x1000 + 7 + 0x10), // mov [rip+0x10], rcx
            (&[0x67, 0x48, 0x89, 0x08], 0x10),                       // mov [eax], rcx
        ] {
            let ip = context.registers.rip;
            let instruction = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode();
            assert_eq!(address(&instruction, 0, &context), Some(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn no_register_is_taken_for_another() {
        use Register::*;
        let all = [RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15];
        let mut registers = Registers::default();
        for (value, register) in (1..).zip(all) {
            write(&mut registers, register, value).unwrap();
        }
        let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, .. } = registers;
        let Registers { r12, r13, r14, r15, .. } = registers;
        let fields = [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15];
        assert_eq!(fields, std::array::from_fn(|n| n as u64 + 1));
        assert_eq!(all.map(|register| read(&registers, register).unwrap()), fields);
    }
}
