//! Loads from the M2P at the address that Xen's ABI promises, on a machine that has it elsewhere.

use super::{Fault, fetch, operand};
use crate::error::Failure;
use crate::services::Services;
use crate::vcpu::{Mode, Vcpu};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use pv_abi::address::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use pv_abi::trap::PageFaultError;
use pv_abi::{Mfn, PAGE_SIZE, Pfn};

/// Carries out a load of the kernel's that raised a page fault. True where it did.
///
/// # Errors
/// The machine's.
pub fn m2p_read(services: &Services, vcpu: &mut Vcpu, fault: Fault) -> Result<bool, Failure> {
    let not_a_read = PageFaultError::WRITE | PageFaultError::FETCH;
    let layout = services.mmu.layout();
    let in_m2p = (MACH2PHYS_VIRT_START..MACH2PHYS_VIRT_END).contains(&fault.cr2);
    if layout.m2p_at_fixed_address || !in_m2p || vcpu.mode != Mode::Kernel {
        return Ok(false);
    }
    if fault.error_code & not_a_read.bits() != 0 {
        return Ok(false);
    }
    let Some(instruction) = fetch(services, vcpu)? else { return Ok(false) };
    let Some((into, size)) = load(&instruction) else { return Ok(false) };
    let Some(value) = m2p_value(services, fault.cr2.wrapping_sub(MACH2PHYS_VIRT_START), size) else {
        return Ok(false);
    };
    let registers = &mut vcpu.context.registers;
    if operand::write(registers, into, value).is_none() {
        return Ok(false);
    }
    registers.rip = registers.rip.wrapping_add(instruction.len() as u64);
    Ok(true)
}

/// The register that a plain load from memory writes, and the bytes that it loads: 1, 2, 4 or 8.
fn load(instruction: &Instruction) -> Option<(Register, u8)> {
    let is_move = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Movzx);
    let from_memory = instruction.op0_kind() == OpKind::Register && instruction.op1_kind() == OpKind::Memory;
    let size =
        u8::try_from(instruction.memory_size().size()).ok().filter(|size| matches!(size, 1 | 2 | 4 | 8));
    let into = instruction.op0_register();
    size.filter(|_| is_move && from_memory && into.is_gpr()).map(|size| (into, size))
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
mod tests {
    use super::super::decode::decode;
    use super::*;
    use crate::machine::{Context, Root};

    fn load_of(bytes: &[u8]) -> Option<(Register, u8)> {
        load(&decode(bytes, &Context::new(1, Root::NONE, 0x1000))?)
    }

    #[test]
    fn loads_write_as_much_as_the_processor_does() {
        for (bytes, expected) in [
            (&[0x48, 0x8b, 0x04, 0xf8][..], (Register::RAX, 8)), // mov rax, [rax+rdi*8]
            (&[0x44, 0x8b, 0x08], (Register::R9D, 4)),           // mov r9d, [rax]
            (&[0x66, 0x8b, 0x08], (Register::CX, 2)),            // mov cx, [rax]
            (&[0x0f, 0xb6, 0x08], (Register::ECX, 1)),           // movzx ecx, byte [rax]
        ] {
            assert_eq!(load_of(bytes), Some(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn stores_vectors_and_registers_are_not_loads() {
        for bytes in [&[0x48, 0x89, 0x08][..], &[0x0f, 0x6f, 0x00], &[0x48, 0x8b, 0xc1], &[0x8e, 0x18]] {
            assert_eq!(load_of(bytes), None, "{bytes:x?}");
        }
    }
}
