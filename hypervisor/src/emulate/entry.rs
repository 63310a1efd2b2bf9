//! Instructions by which a program asks its kernel, and `cpuid`.

use super::step::{Effect, Trapped};
use crate::machine::Registers;
use pv_abi::trap::Vector;

/// Bits of a #GP's error code: the index is into the IDT.
const IDT: u64 = 0b10;

/// `int n`: a trap where the guest's table lets this privilege level raise it, else #GP that names the vector.
#[allow(clippy::unnecessary_wraps)] // it is a `Step`
pub fn software_interrupt(trapped: &Trapped<'_>, _: &mut Registers) -> Option<Effect> {
    let (vcpu, vector) = (trapped.vcpu, trapped.instruction.immediate8());
    let entry = vcpu.traps.get(vector);
    if entry.address == 0 || entry.dpl() < vcpu.virtual_cpl() {
        let error_code = (u64::from(vector) * 8) | IDT;
        return Some(Effect::Fault { vector: Vector::GENERAL_PROTECTION, error_code });
    }
    Some(Effect::Interrupt(vector))
}

/// `syscall`, which no machine refuses but with #UD.
pub fn syscall(trapped: &Trapped<'_>, _: &mut Registers) -> Option<Effect> {
    let effect = if trapped.vcpu.context.runs_32_bit_code() { Effect::Syscall32 } else { Effect::Syscall };
    (trapped.vector == Vector::INVALID_OPCODE).then_some(effect)
}

/// `sysenter`, which goes to the callback that the kernel has registered for it.
#[allow(clippy::unnecessary_wraps)] // it is a `Step`
pub fn sysenter(_: &Trapped<'_>, _: &mut Registers) -> Option<Effect> {
    Some(Effect::Sysenter)
}

/// `cpuid`: EAX, EBX, ECX and EDX get what the vCPU is told of leaf EAX, subleaf ECX.
#[allow(clippy::unnecessary_wraps)] // it is a `Step`
pub fn cpuid(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let leaf = trapped.cpuid(registers.rax as u32, registers.rcx as u32);
    [registers.rax, registers.rbx, registers.rcx, registers.rdx] = leaf.map(u64::from);
    Some(Effect::Registers)
}
