//! Exceptions of guests: what stands for an instruction that the hypervisor carries out, and what is the guest's own.

mod decode;
mod operand;

pub use decode::privileged;

use crate::cpuid::cpuid;
use crate::error::Failure;
use crate::hypercall::Services;
use crate::vcpu::{InfoPage, Mode, Vcpu, bounce_syscall32, bounce_sysenter, bounce_trap};
use decode::{Decoded, decode};
use pv_abi::address::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::{PageFaultError, Vector};
use pv_abi::{Mfn, PAGE_SIZE, Pfn};

/// An exception as the machine reports it.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The vector.
    pub vector: u8,
    /// The hardware's error code.
    pub error_code: u64,
    /// CR2.
    pub cr2: u64,
}

/// Bits of a #GP's error code: the index is into the IDT.
const IDT: u64 = 0b10;

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
        Vector::PAGE_FAULT => out(m2p_read(services, vcpu, fault)?),
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

/// The instruction that raised #UD or #GP, fetched once. None where that is the guest's own fault.
fn instruction(
    services: &Services,
    vcpu: &mut Vcpu,
    info: &InfoPage,
    vector: Vector,
) -> Result<Option<Carried>, Failure> {
    let bytes = match vcpu.space(&services.mmu).fetch(vcpu.context.registers.rip) {
        Ok(bytes) => bytes,
        Err(Failure::Refused(_)) => return Ok(None),
        Err(other) => return Err(other),
    };
    match decode(bytes.bytes()) {
        Decoded::SoftwareInterrupt { vector, length } => {
            software_interrupt(services, vcpu, info, vector, length)?;
            Ok(Some(Carried::Out))
        }
        Decoded::Cpuid { length } => {
            let registers = &mut vcpu.context.registers;
            let leaf = cpuid(&*services.cpuid, registers.rax as u32, registers.rcx as u32);
            [registers.rax, registers.rbx, registers.rcx, registers.rdx] = leaf.map(u64::from);
            registers.rip = registers.rip.wrapping_add(length);
            Ok(Some(Carried::Out))
        }
        Decoded::Io { reads, length } if vcpu.iopl >= vcpu.virtual_cpl() => {
            let registers = &mut vcpu.context.registers;
            if let Some(target) = reads {
                target.write(registers, u64::MAX);
            }
            registers.rip = registers.rip.wrapping_add(length);
            Ok(Some(Carried::Out))
        }
        Decoded::Sysenter => Ok(out(bounce_sysenter(vcpu, info, &services.mmu)?)),
        Decoded::Syscall { length } if vector == Vector::INVALID_OPCODE => {
            if vcpu.context.runs_32_bit_code() {
                return Ok(out(bounce_syscall32(vcpu, info, &services.mmu, length)?));
            }
            let context = &mut vcpu.context;
            (context.cs, context.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
            let registers = &mut context.registers;
            registers.rip = registers.rip.wrapping_add(length);
            (registers.rcx, registers.r11) = (registers.rip, registers.rflags);
            Ok(Some(Carried::Syscall))
        }
        Decoded::Syscall { .. } | Decoded::Io { .. } | Decoded::Load { .. } | Decoded::Other => Ok(None),
    }
}

/// `int n`: a trap where the guest's table lets this mode raise it, else #GP that names the vector.
fn software_interrupt(
    services: &Services,
    vcpu: &mut Vcpu,
    info: &InfoPage,
    vector: u8,
    length: u64,
) -> Result<(), Failure> {
    let entry = vcpu.traps.get(vector);
    if entry.address == 0 || entry.dpl() < vcpu.virtual_cpl() {
        let error_code = (u64::from(vector) * 8) | IDT;
        return bounce_trap(vcpu, info, &services.mmu, Vector::GENERAL_PROTECTION.0, error_code, 0);
    }
    vcpu.context.registers.rip = vcpu.context.registers.rip.wrapping_add(length);
    bounce_trap(vcpu, info, &services.mmu, vector, 0, 0)
}

/// A load from the M2P at the address that Xen's ABI promises, on a machine that has it elsewhere. True where it
/// was carried out.
fn m2p_read(services: &Services, vcpu: &mut Vcpu, fault: Fault) -> Result<bool, Failure> {
    let not_a_read = PageFaultError::WRITE | PageFaultError::FETCH;
    let layout = services.mmu.layout();
    let in_m2p = (MACH2PHYS_VIRT_START..MACH2PHYS_VIRT_END).contains(&fault.cr2);
    if layout.m2p_at_fixed_address || !in_m2p || vcpu.mode != Mode::Kernel {
        return Ok(false);
    }
    if fault.error_code & not_a_read.bits() != 0 {
        return Ok(false);
    }
    let bytes = match vcpu.space(&services.mmu).fetch(vcpu.context.registers.rip) {
        Ok(bytes) => bytes,
        Err(Failure::Refused(_)) => return Ok(false),
        Err(other) => return Err(other),
    };
    let Decoded::Load { size, into, length } = decode(bytes.bytes()) else { return Ok(false) };
    let Some(value) = m2p_value(services, fault.cr2.wrapping_sub(MACH2PHYS_VIRT_START), size) else {
        return Ok(false);
    };
    into.write(&mut vcpu.context.registers, value);
    vcpu.context.registers.rip = vcpu.context.registers.rip.wrapping_add(length);
    Ok(true)
}

/// `size` bytes at `offset` of the M2P; all ones beyond its end. None where they lie in two of its frames.
fn m2p_value(services: &Services, offset: u64, size: u8) -> Option<u64> {
    let layout = services.mmu.layout();
    let in_page = offset as usize % PAGE_SIZE;
    if in_page.saturating_add(size.into()) > PAGE_SIZE {
        return None;
    }
    let mut bytes = Pfn::INVALID.0.to_le_bytes();
    let frame = layout.m2p.start.saturating_add(Mfn::containing(offset).0);
    if frame < layout.m2p.end && offset / 8 < layout.frames {
        let loaded = bytes.get_mut(..usize::from(size))?;
        services.mmu.memory().read(Mfn(frame), in_page, loaded).ok()?;
    }
    let above = u64::BITS.saturating_sub(u32::from(size) << 3);
    Some(u64::from_le_bytes(bytes) & u64::MAX.checked_shr(above)?)
}

#[cfg(test)]
mod tests;
