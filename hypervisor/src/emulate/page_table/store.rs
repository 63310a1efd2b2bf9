//! What an instruction with one store makes of the word that it stores to, and of the registers. Pure.

use super::super::operand;
use crate::machine::{Context, Registers};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const AUXILIARY: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;
/// The flags that arithmetic sets.
const ARITHMETIC: u64 = CARRY | PARITY | AUXILIARY | ZERO | SIGN | OVERFLOW;

/// A store, with its operands as they were when it was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// The linear address that is stored to.
    pub address: u64,
    /// How many bytes are stored: 1, 2, 4 or 8.
    pub bytes: u64,
    operation: Operation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Move(u64),
    Exchange {
        register: Register,
        value: u64,
    },
    CompareExchange {
        accumulator: Register,
        expected: u64,
        value: u64,
    },
    And(u64),
    Or(u64),
    Xor(u64),
    /// The mask has the one bit.
    SetBit(u64),
    ResetBit(u64),
    ComplementBit(u64),
}

impl Store {
    /// The store that `instruction`, decoded at the RIP in `context`, makes; none where it is none that is carried out.
    pub fn decode(instruction: &Instruction, context: &Context) -> Option<Self> {
        if instruction.op0_kind() != OpKind::Memory {
            return None;
        }
        let bytes = instruction.memory_size().size() as u64;
        let (accumulator, bits) = match bytes {
            1 => (Register::AL, 8_u32),
            2 => (Register::AX, 16),
            4 => (Register::EAX, 32),
            8 => (Register::RAX, 64),
            _ => return None,
        };
        let mut address = operand::address(instruction, 0, context)?;
        let registers = &context.registers;
        let register = instruction.op1_register();
        let value = match instruction.op1_kind() {
            OpKind::Register => operand::read(registers, register)?,
            OpKind::Memory => return None,
            _ => instruction.try_immediate(1).ok()?,
        };
        let mut bit = || {
            if instruction.op1_kind() == OpKind::Register {
                // A bit of a string of bits, before or behind the address.
                let unused = u64::BITS.saturating_sub(bits);
                let index = (value << unused).cast_signed() >> unused;
                let words = index.div_euclid(i64::from(bits)).cast_unsigned();
                address = address.wrapping_add(words.wrapping_mul(bytes));
            }
            1 << (value & u64::from(bits.saturating_sub(1)))
        };
        let operation = match instruction.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movnti => Operation::Move(value),
            Mnemonic::Xchg => Operation::Exchange { register, value },
            Mnemonic::Cmpxchg => {
                let expected = operand::read(registers, accumulator)?;
                Operation::CompareExchange { accumulator, expected, value }
            }
            Mnemonic::And => Operation::And(value),
            Mnemonic::Or => Operation::Or(value),
            Mnemonic::Xor => Operation::Xor(value),
            Mnemonic::Bts => Operation::SetBit(bit()),
            Mnemonic::Btr => Operation::ResetBit(bit()),
            Mnemonic::Btc => Operation::ComplementBit(bit()),
            _ => return None,
        };
        Some(Self { address, bytes, operation })
    }

    /// Where in an aligned word of 8 bytes it stores: bits to the right of it, and its own bits, shifted to bit 0.
    fn part(&self) -> (u64, u64) {
        let unused = 8_u64.saturating_sub(self.bytes) << 3;
        ((self.address & 7) << 3, u64::MAX >> unused)
    }

    /// What is at the address, where the aligned word around it is `word`.
    fn stored(&self, word: u64) -> u64 {
        let (shift, mask) = self.part();
        word >> shift & mask
    }

    /// What the aligned word of 8 bytes around the address, `word`, becomes; none where nothing is stored.
    pub fn change(&self, word: u64) -> Option<u64> {
        let old = self.stored(word);
        let new = match self.operation {
            Operation::Move(value) | Operation::Exchange { value, .. } => value,
            Operation::CompareExchange { expected, value, .. } => Some(value).filter(|_| old == expected)?,
            Operation::And(value) => old & value,
            Operation::Or(value) | Operation::SetBit(value) => old | value,
            Operation::Xor(value) | Operation::ComplementBit(value) => old ^ value,
            Operation::ResetBit(value) => old & !value,
        };
        let (shift, mask) = self.part();
        Some(word & !(mask << shift) | (new & mask) << shift)
    }

    /// Does to the registers what the instruction does, where the word around the address was `word`.
    pub fn complete(&self, word: u64, registers: &mut Registers) {
        let old = self.stored(word);
        let flags = &mut registers.rflags;
        match self.operation {
            Operation::Move(_) => {}
            Operation::Exchange { register, .. } => write(registers, register, old),
            Operation::CompareExchange { accumulator, expected, .. } => {
                *flags = *flags & !ARITHMETIC | self.flags_of_comparison(expected, old);
                if old != expected {
                    write(registers, accumulator, old);
                }
            }
            Operation::And(value) => *flags = *flags & !ARITHMETIC | self.flags_of(old & value),
            Operation::Or(value) => *flags = *flags & !ARITHMETIC | self.flags_of(old | value),
            Operation::Xor(value) => *flags = *flags & !ARITHMETIC | self.flags_of(old ^ value),
            Operation::SetBit(mask) | Operation::ResetBit(mask) | Operation::ComplementBit(mask) => {
                *flags = *flags & !CARRY | if old & mask == 0 { 0 } else { CARRY };
            }
        }
    }

    /// Sign, zero and parity of a result.
    fn flags_of(&self, result: u64) -> u64 {
        let (_, mask) = self.part();
        let (result, sign) = (result & mask, mask ^ mask >> 1);
        let flag = |flag, set: bool| if set { flag } else { 0 };
        flag(ZERO, result == 0)
            | flag(SIGN, result & sign != 0)
            | flag(PARITY, (result as u8).count_ones().is_multiple_of(2))
    }

    /// The flags of `left - right`.
    fn flags_of_comparison(&self, left: u64, right: u64) -> u64 {
        let (_, mask) = self.part();
        let difference = left.wrapping_sub(right) & mask;
        let (borrow, overflow) = (left ^ right ^ difference, (left ^ right) & (left ^ difference));
        let sign = mask ^ mask >> 1;
        let flag = |flag, set: bool| if set { flag } else { 0 };
        self.flags_of(difference)
            | flag(CARRY, left < right)
            | flag(AUXILIARY, borrow & 1 << 4 != 0)
            | flag(OVERFLOW, overflow & sign != 0)
    }
}

/// Writes a general register, which it was when it was decoded.
fn write(registers: &mut Registers, register: Register, value: u64) {
    let written = operand::write(registers, register, value);
    debug_assert!(written.is_some());
}
