//! `iret`: the only way from a guest's kernel to its user mode, and its way back from a handler.

use super::{InfoPage, Vcpu};
use crate::error::Failure;
use crate::paging::Mmu;
use pv_abi::trap::{IretContext, IretFlags, rflags};

/// Loads what lies at the stack pointer.
///
/// What it asks for is not judged here: [`super::resume::prepare`] does that for every way into the guest.
///
/// # Errors
/// [`Failure::Crash`] where the frame cannot be read, or names user mode while that has no root table.
pub fn iret(vcpu: &mut Vcpu, info: &InfoPage, mmu: &Mmu) -> Result<(), Failure> {
    let stack = vcpu.context.registers.rsp;
    let frame: IretContext = vcpu.space(mmu).read(stack).map_err(|failure| match failure {
        Failure::Refused(refusal) => {
            Failure::Crash(format!("iret cannot read its frame at {stack:#x}: {}", refusal.why))
        }
        other => other,
    })?;
    if frame.cs & 3 == 3 && !vcpu.enter_user() {
        return Err(Failure::Crash("iret to user mode, which has no root table".into()));
    }
    if vcpu.shows_iopl() {
        vcpu.iopl = (frame.rflags >> 12 & 3) as u8;
    }
    let context = &mut vcpu.context;
    let (cs, ss) = (frame.cs as u16 | 3, frame.ss as u16 | 3);
    if (context.cs, context.ss) != (cs, ss) {
        (context.cs, context.ss) = (cs, ss);
        context.segments_changed = true;
    }
    let registers = &mut context.registers;
    (registers.rax, registers.rip, registers.rsp) = (frame.rax, frame.rip, frame.rsp);
    registers.rflags = frame.rflags & rflags::USER_MASK | rflags::IF | rflags::RESERVED1;
    if frame.flags & IretFlags::IN_SYSCALL.bits() == 0 {
        (registers.rcx, registers.r11) = (frame.rcx, frame.r11);
    } else {
        (registers.rcx, registers.r11) = (registers.rip, registers.rflags);
    }
    info.set_masked(frame.rflags & rflags::IF == 0);
    Ok(())
}
