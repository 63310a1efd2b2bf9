//! Port I/O. No domain has a device: what is written goes nowhere, and what is read is made up.

use super::operand;
use super::step::{Effect, Trapped};
use crate::machine::Registers;
use crate::paging::{BadAddress, Mmu};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, OpKind, Register};
use pv_abi::trap::rflags;

/// Elements of a string that are moved at a time, before others may run: less than a millisecond's.
const PIECE: u64 = 512;

/// What is read of `size` ports from `port` on: all ones, but 0 of the timer chip's. A kernel that measures its clock by
/// that one then gives up at once.
fn read(port: u16, size: usize) -> u32 {
    let byte = |at: u16| if (0x40..0x44).contains(&port.wrapping_add(at)) { 0 } else { u8::MAX };
    let [a, b, c, d] = [byte(0), byte(1), byte(2), byte(3)];
    let above = 32_u32.saturating_sub((size as u32).saturating_mul(8));
    u32::from_le_bytes([a, b, c, d]) & u32::MAX.checked_shr(above).unwrap_or_default()
}

/// The port that `operand` of an instruction names.
fn port(instruction: &Instruction, operand: u32, registers: &Registers) -> u16 {
    match instruction.op_kind(operand) {
        OpKind::Immediate8 => instruction.immediate8().into(),
        _ => registers.rdx as u16,
    }
}

/// `in`: AL, AX or EAX gets what is read of the ports.
pub fn input(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let instruction = trapped.instruction;
    let port = port(instruction, 1, registers);
    let into = instruction.op0_register();
    operand::write(registers, into, read(port, into.size()).into())?;
    Some(Effect::Ports { port, size: into.size() })
}

/// `out`: what is written to the ports goes nowhere.
#[allow(clippy::unnecessary_wraps)] // it is a `Step`
pub fn output(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let instruction = trapped.instruction;
    Some(Effect::Ports { port: port(instruction, 0, registers), size: instruction.op1_register().size() })
}

/// Strings that are moved between ports and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The number of the first port.
    port: u16,
    /// Where what is read from ports goes to, and what is written to them comes from.
    index: Register,
    /// The base of its segment.
    base: u64,
    /// Counts elements; none where there is one.
    counter: Option<Register>,
    /// Bytes of an element: 1, 2 or 4.
    size: usize,
    /// What each element of an input is; none for an output.
    input: Option<[u8; 4]>,
}

/// `ins`: memory at RDI or EDI gets what is read of the ports. None for 32-bit code.
pub fn string_input(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let wide = trapped.instruction.op0_kind() == OpKind::MemoryESRDI;
    let index = if wide { Register::RDI } else { Register::EDI };
    transfer(trapped, 0, index, |size| Some(read(registers.rdx as u16, size).to_le_bytes()))
}

/// `outs`: memory at RSI or ESI is read, and goes nowhere. None for 32-bit code.
pub fn string_output(trapped: &Trapped<'_>, _: &mut Registers) -> Option<Effect> {
    let wide = trapped.instruction.op1_kind() == OpKind::MemorySegRSI;
    let index = if wide { Register::RSI } else { Register::ESI };
    transfer(trapped, 1, index, |_| None)
}

/// `operand` is the one that is memory. Segments of 32-bit code have bases and limits, so there it is refused.
fn transfer(
    trapped: &Trapped<'_>,
    operand: u32,
    index: Register,
    input: impl FnOnce(usize) -> Option<[u8; 4]>,
) -> Option<Effect> {
    let (instruction, context) = (trapped.instruction, &trapped.vcpu.context);
    if context.runs_32_bit_code() {
        return None;
    }
    let address = operand::address(instruction, operand, context)?;
    let base = address.wrapping_sub(operand::read(&context.registers, index)?);
    let counter = if index.size() == 8 { Register::RCX } else { Register::ECX };
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let size = instruction.memory_size().size();
    let (counter, input) = (repeats.then_some(counter), input(size));
    let port = context.registers.rdx as u16;
    Some(Effect::Transfer(Transfer { port, index, base, counter, size, input }))
}

/// How a transfer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transferred {
    /// All elements are moved.
    All,
    /// There is nothing to be moved.
    Empty,
    /// A part of it is, and the registers tell which: the instruction is to be executed again.
    Part,
    /// Nothing is, since the first element's memory cannot be used.
    Nothing {
        /// The first address that cannot be used.
        bad: BadAddress,
        /// Whether it was to be written.
        writes: bool,
    },
}

impl Transfer {
    /// Moves as many elements as others may wait for, between ports and the memory that `vcpu` sees. `registers`, the
    /// vCPU's own, count what is done.
    pub fn carry_out(self, mmu: &Mmu, vcpu: &Vcpu, registers: &mut Registers) -> Option<Transferred> {
        let count = self.counter.map_or(Some(1), |counter| operand::read(registers, counter))?;
        // The processor traps after each element, if after each instruction or access.
        let traps = registers.rflags & rflags::TF != 0 || self.met(vcpu) != 0;
        let most = if traps { 1 } else { PIECE };
        for done in 0..count.min(most) {
            if let Err(bad) = self.element(mmu, vcpu, operand::read(registers, self.index)?) {
                let writes = self.input.is_some();
                return Some(if done == 0 {
                    Transferred::Nothing { bad, writes }
                } else {
                    Transferred::Part
                });
            }
            self.advance(registers)?;
        }
        Some(match count {
            0 => Transferred::Empty,
            _ if count <= most => Transferred::All,
            _ => Transferred::Part,
        })
    }

    /// The breakpoints that each element meets, as bits of DR6.
    pub fn met(self, vcpu: &Vcpu) -> u64 {
        vcpu.breakpoints().met_by_io(self.port, self.size)
    }

    /// Moves the element at `index`.
    fn element(self, mmu: &Mmu, vcpu: &Vcpu, index: u64) -> Result<(), BadAddress> {
        let (domain, root, address) = (vcpu.domain, vcpu.context.root.mfn(), self.base.wrapping_add(index));
        let mut unseen = [0; 4];
        match &self.input {
            Some(bytes) => {
                mmu.copy_to_guest(domain, root, address, bytes.get(..self.size).unwrap_or_default())
            }
            None => {
                mmu.copy_from_guest(domain, root, address, unseen.get_mut(..self.size).unwrap_or_default())
            }
        }
    }

    /// Counts one element: moves the index register by its size, and takes 1 off the counter where there is one.
    fn advance(self, registers: &mut Registers) -> Option<()> {
        let size = self.size as u64;
        let step = if registers.rflags & rflags::DF == 0 { size } else { size.wrapping_neg() };
        operand::write(registers, self.index, operand::read(registers, self.index)?.wrapping_add(step))?;
        let Some(counter) = self.counter else { return Some(()) };
        operand::write(registers, counter, operand::read(registers, counter)?.wrapping_sub(1))
    }
}
