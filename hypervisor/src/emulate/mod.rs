//! Exceptions of guests: what stands for an instruction that the hypervisor carries out, and what is the guest's own.

mod control;
mod decode;
mod entry;
mod m2p;
mod msr;
mod operand;
mod page_table;
mod port;
mod step;
mod table;

pub use decode::privileged;

use crate::error::Failure;
use crate::services::Services;
use crate::vcpu::{InfoPage, Vcpu, bounce_trap};
use decode::decode;
use iced_x86::Instruction;
use m2p::m2p_read;
use pv_abi::trap::Vector;
use step::{Trapped, single_step};

/// An exception as the machine reports it.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The exception's vector, below 32.
    pub vector: u8,
    /// The hardware's error code.
    pub error_code: u64,
    /// CR2: the linear address of the access; meaningful for a page fault.
    pub cr2: u64,
}

/// What has become of an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// What it stands for was carried out, or the guest's kernel has got it.
    Out,
    /// It stands for `syscall` of 64-bit code. RIP, RCX and R11 are those behind the instruction.
    Syscall,
}

/// That an instruction was carried out; none where it was not.
fn out(done: bool) -> Option<Carried> {
    done.then_some(Carried::Out)
}

/// Carries out what an exception stands for, or delivers it to the guest's kernel. What `syscall` stands for is left to
/// the caller.
///
/// # Errors
/// [`Failure::Crash`] where the kernel cannot take it.
pub fn exception(
    services: &Services,
    vcpu: &mut Vcpu,
    info: &InfoPage,
    fault: Fault,
) -> Result<Carried, Failure> {
    let carried = match Vector(fault.vector) {
        vector @ (Vector::INVALID_OPCODE | Vector::GENERAL_PROTECTION) => {
            instruction(services, vcpu, info, vector)?
        }
        Vector::PAGE_FAULT => access(services, vcpu, info, fault)?,
        Vector::DEVICE_NOT_AVAILABLE => {
            // As on Xen: the handler may use the FPU, and the instruction is executed again.
            vcpu.context.task_switched = false;
            None
        }
        Vector::NMI | Vector::DOUBLE_FAULT => {
            return Err(Failure::Crash(format!("exception {} in the guest", Vector(fault.vector))));
        }
        _ => None,
    };
    if let Some(carried) = carried {
        return Ok(carried);
    }
    bounce_trap(vcpu, info, &services.mmu, fault.vector, fault.error_code, fault.cr2)?;
    Ok(Carried::Out)
}

/// The access that raised #PF. None where that is the guest's own fault.
fn access(
    services: &Services,
    vcpu: &mut Vcpu,
    info: &InfoPage,
    fault: Fault,
) -> Result<Option<Carried>, Failure> {
    let before = vcpu.context.registers;
    if !m2p_read(services, vcpu, fault)? && !page_table::carry_out(services, vcpu, fault)? {
        return Ok(None);
    }
    // Where it has not even begun, there is no step to trap behind.
    match vcpu.context.registers == before {
        true => Ok(Some(Carried::Out)),
        false => single_step(services, vcpu, info).map(Some),
    }
}

/// The instruction that a vCPU is at, fetched once and decoded once. None where there is none, which is the guest's own
/// fault.
fn fetch(services: &Services, vcpu: &Vcpu) -> Result<Option<Instruction>, Failure> {
    match vcpu.space(&services.mmu).fetch(vcpu.context.instruction_address()) {
        Ok(bytes) => Ok(decode(bytes.bytes(), &vcpu.context)),
        Err(Failure::Refused(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

/// The instruction that raised #UD or #GP. None where that is the guest's own fault.
fn instruction(
    services: &Services,
    vcpu: &mut Vcpu,
    info: &InfoPage,
    vector: Vector,
) -> Result<Option<Carried>, Failure> {
    let Some(instruction) = fetch(services, vcpu)? else { return Ok(None) };
    let (cr2, answers) = (info.cr2(), services.cpuid_of(vcpu));
    let raises_nm = services.raises_nm;
    let trapped = Trapped { instruction: &instruction, vector, vcpu, cr2, policy: &answers, raises_nm };
    let Some((registers, effect)) = trapped.step() else { return Ok(None) };
    effect.apply(services, vcpu, info, instruction.len() as u64, registers)
}

#[cfg(test)]
mod tests;
