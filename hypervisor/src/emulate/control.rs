//! Control, debug and extended control registers, as a PV guest finds them.

use super::operand;
use super::step::{Effect, Trapped, edx_eax};
use crate::machine::{CR0, CR0_TS, CR4_FSGSBASE, Registers, is_valid_xcr0};
use crate::vcpu::debug::CR4_DE;
use iced_x86::Register;
use pv_abi::Mfn;
use pv_abi::trap::Vector;

const OSXSAVE: u64 = 1 << 18;
/// What a kernel finds in CR4, whatever it writes: PAE MCE OSFXSR OSXMMEXCPT.
const CR4_FIXED: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;

/// `mov r64, crN` for CR0, CR2, CR3 and CR4, as the guest's kernel finds them. None for other registers.
pub fn read_control(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let value = match trapped.instruction.op1_register() {
        Register::CR0 => CR0 | if trapped.vcpu.context.task_switched { CR0_TS } else { 0 },
        Register::CR2 => trapped.cr2,
        Register::CR3 => trapped.vcpu.roots.kernel()?.address(),
        Register::CR4 => cr4(trapped),
        _ => return None,
    };
    operand::write(registers, trapped.instruction.op0_register(), value)?;
    Some(Effect::Registers)
}

/// `mov crN, r64`. As on Xen, bits of CR4 that are not the kernel's to choose are ignored; those of CR0 are refused.
pub fn write_control(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let value = operand::read(registers, trapped.instruction.op1_register())?;
    match trapped.instruction.op0_register() {
        Register::CR0 => {
            let (others, set) = (value & !CR0_TS, value & CR0_TS != 0);
            (others == CR0 && (!set || trapped.raises_nm)).then_some(Effect::TaskSwitched(set))
        }
        Register::CR2 => Some(Effect::Cr2(value)),
        Register::CR3 => Some(Effect::Root(Mfn::containing(value))),
        Register::CR4 => Some(Effect::Cr4(value)),
        _ => None,
    }
}

/// `clts`: clears CR0.TS.
#[allow(clippy::unnecessary_wraps)] // it is a `Step`
pub fn clear_task_switched(_: &Trapped<'_>, _: &mut Registers) -> Option<Effect> {
    Some(Effect::TaskSwitched(false))
}

/// CR4 as the kernel finds it: of what it wrote, the bits that are its own to choose. No page of a guest is global, and
/// `rdtsc` is open to programs.
fn cr4(trapped: &Trapped<'_>) -> u64 {
    let [_, _, features, _] = trapped.cpuid(1, 0);
    let [_, extended, ..] = trapped.cpuid(7, 0);
    let xsave = if features & 1 << 26 != 0 { OSXSAVE } else { 0 };
    let fsgsbase = if extended & 1 != 0 { CR4_FSGSBASE } else { 0 };
    CR4_FIXED | trapped.vcpu.cr4 & (CR4_DE | xsave | fsgsbase)
}

/// The number of the debug register that is meant by `register`: 4 and 5 are other names for 6 and 7, but with CR4.DE. Then
/// it is none, and that is #UD.
fn debug_number(trapped: &Trapped<'_>, register: Register) -> Result<u64, Effect> {
    match register.number() {
        4 | 5 if cr4(trapped) & CR4_DE != 0 => {
            Err(Effect::Fault { vector: Vector::INVALID_OPCODE, error_code: 0 })
        }
        number @ (4 | 5) => Ok(number as u64 | 2),
        number => Ok(number as u64),
    }
}

/// `mov r64, drN`. DR4 and DR5 mean DR6 and DR7, but raise #UD where CR4.DE is set.
pub fn read_debug(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let number = match debug_number(trapped, trapped.instruction.op1_register()) {
        Ok(number) => number,
        Err(fault) => return Some(fault),
    };
    let value = trapped.vcpu.breakpoints().get(number).ok()?;
    operand::write(registers, trapped.instruction.op0_register(), value)?;
    Some(Effect::Registers)
}

/// `mov drN, r64`, as far as [`Breakpoints::set`] permits it. DR4 and DR5 as in [`read_debug`].
pub fn write_debug(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let number = match debug_number(trapped, trapped.instruction.op0_register()) {
        Ok(number) => number,
        Err(fault) => return Some(fault),
    };
    let value = operand::read(registers, trapped.instruction.op1_register())?;
    let mut breakpoints = trapped.vcpu.breakpoints();
    breakpoints.set(number, value, trapped.vcpu.cr4).ok()?;
    Some(Effect::Breakpoints(breakpoints))
}

/// `xsetbv`: a kernel that has set CR4.OSXSAVE chooses among the states that the machine offers.
pub fn write_xcr(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let [low, _, _, high] = trapped.cpuid(0xd, 0);
    let offered = u64::from(high) << 32 | u64::from(low);
    let value = edx_eax(registers);
    let is_xcr0 = registers.rcx as u32 == 0 && cr4(trapped) & OSXSAVE != 0;
    (is_xcr0 && is_valid_xcr0(value, offered)).then_some(Effect::Xcr0(value))
}
