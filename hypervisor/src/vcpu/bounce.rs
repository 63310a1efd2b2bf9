//! Entering a guest kernel: writing the frame that its handler expects, and pointing the vCPU at the handler.

use super::{InfoPage, Mode, Vcpu};
use crate::error::Failure;
use crate::paging::Mmu;
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::{PageFaultError, Vector, rflags};
use std::fmt;

/// How a handler is entered.
struct Handler {
    address: u64,
    cs: u16,
    masks_events: bool,
    clears_direction: bool,
    /// What is delivered, for reports.
    what: What,
}

/// What a handler is entered for, in words.
#[derive(Clone, Copy)]
enum What {
    Named(&'static str),
    /// A page fault is told with its address and error code: without a handler nobody else will.
    PageFault {
        address: u64,
        error: PageFaultError,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, error) = match self {
            Self::Named(name) => return f.write_str(name),
            Self::PageFault { address, error } => (address, error),
        };
        let access = match () {
            () if error.contains(PageFaultError::FETCH) => "execute",
            () if error.contains(PageFaultError::WRITE) => "write",
            () => "read",
        };
        let why = if error.contains(PageFaultError::PRESENT) { "not permitted" } else { "not mapped" };
        write!(f, "PAGE_FAULT at {address:#x} ({access}, {why}; error code {:#x})", error.bits())
    }
}

impl Handler {
    fn callback(callback: Option<super::Callback>, name: &'static str) -> Self {
        let (address, masks_events) = callback.map_or((0, false), |c| (c.address, c.masks_events));
        Self { address, cs: FLAT_RING3_CS64, masks_events, clears_direction: false, what: What::Named(name) }
    }
}

/// Flags that no handler is entered with.
const CLEARED: u64 = rflags::TF | rflags::RF | rflags::NT | rflags::AC | rflags::VM | rflags::IOPL;

/// Delivers an exception to the guest's kernel. `error_code` is used where the vector has one; `cr2` is a page
/// fault's address.
///
/// # Errors
/// [`Failure::Crash`] where the kernel has no handler or its stack cannot be written.
pub fn bounce_trap(
    vcpu: &mut Vcpu,
    info: &InfoPage,
    mmu: &Mmu,
    vector: u8,
    error_code: u64,
    cr2: u64,
) -> Result<(), Failure> {
    let entry = vcpu.traps.get(vector);
    let mut error_code = error_code;
    let mut what = What::Named(Vector(vector).name().unwrap_or("software interrupt"));
    if Vector(vector) == Vector::PAGE_FAULT {
        info.set_cr2(cr2);
        let user = PageFaultError::USER.bits();
        error_code = if vcpu.mode == Mode::User { error_code | user } else { error_code & !user };
        what = What::PageFault { address: cr2, error: PageFaultError::from_bits_retain(error_code) };
    }
    let handler = Handler {
        address: entry.address,
        cs: entry.cs | 3,
        masks_events: entry.masks_events(),
        clears_direction: false,
        what,
    };
    let extra: &[u64] = if Vector(vector).has_error_code() { &[error_code] } else { &[] };
    enter(vcpu, info, mmu, &handler, extra)
}

/// Delivers `syscall` from user mode.
///
/// # Errors
/// As [`bounce_trap`].
pub fn bounce_user_syscall(vcpu: &mut Vcpu, info: &InfoPage, mmu: &Mmu) -> Result<(), Failure> {
    (vcpu.context.cs, vcpu.context.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
    let mut handler = Handler::callback(vcpu.callbacks.syscall, "system call");
    handler.clears_direction = true;
    enter(vcpu, info, mmu, &handler, &[])
}

/// Delivers `syscall` of 32-bit code, `length` bytes long, to its callback; RIP is at the instruction. False, and nothing
/// is done, where no callback is registered or the kernel executed it: then it is an instruction that the processor does
/// not have (#UD).
///
/// # Errors
/// As [`bounce_trap`].
pub fn bounce_syscall32(vcpu: &mut Vcpu, info: &InfoPage, mmu: &Mmu, length: u64) -> Result<bool, Failure> {
    let callback = vcpu.callbacks.syscall32;
    if callback.is_none() || vcpu.mode == Mode::Kernel {
        return Ok(false);
    }
    (vcpu.context.cs, vcpu.context.ss) = (FLAT_RING3_CS32, FLAT_RING3_SS64);
    let registers = &mut vcpu.context.registers;
    // 32-bit code has 32 bits of it.
    registers.rip = u64::from(registers.rip.wrapping_add(length) as u32);
    (registers.rcx, registers.r11) = (registers.rip, registers.rflags);
    let mut handler = Handler::callback(callback, "32-bit system call");
    handler.clears_direction = true;
    enter(vcpu, info, mmu, &handler, &[])?;
    Ok(true)
}

/// Delivers `sysenter` to its callback. The instruction saves neither where it was nor the stack: as on Xen the frame
/// has 0 for both, 3 for CS and the flat SS. False, and nothing is done, where no callback is registered or the kernel
/// executed it: then it stays the exception that it raised.
///
/// # Errors
/// As [`bounce_trap`].
pub fn bounce_sysenter(vcpu: &mut Vcpu, info: &InfoPage, mmu: &Mmu) -> Result<bool, Failure> {
    let callback = vcpu.callbacks.sysenter;
    if callback.is_none() || vcpu.mode == Mode::Kernel {
        return Ok(false);
    }
    let context = &mut vcpu.context;
    (context.registers.rip, context.registers.rsp) = (0, 0);
    (context.cs, context.ss) = (3, FLAT_RING3_SS64);
    enter(vcpu, info, mmu, &Handler::callback(callback, "sysenter"), &[])?;
    Ok(true)
}

/// Delivers the upcall of a pending event.
///
/// # Errors
/// As [`bounce_trap`].
pub(super) fn bounce_event(vcpu: &mut Vcpu, info: &InfoPage, mmu: &Mmu) -> Result<(), Failure> {
    let mut handler = Handler::callback(vcpu.callbacks.event, "event");
    handler.masks_events = true;
    enter(vcpu, info, mmu, &handler, &[])
}

/// Reports that the context cannot be resumed: to the failsafe callback, else as #GP with `error_code`.
///
/// # Errors
/// As [`bounce_trap`].
pub(super) fn bounce_unfit(
    vcpu: &mut Vcpu,
    info: &InfoPage,
    mmu: &Mmu,
    error_code: u64,
) -> Result<(), Failure> {
    if vcpu.callbacks.failsafe.is_none() {
        return bounce_trap(vcpu, info, mmu, Vector::GENERAL_PROTECTION.0, error_code, 0);
    }
    let handler = Handler::callback(vcpu.callbacks.failsafe, "failsafe");
    let context = &vcpu.context;
    let selectors = [context.ds, context.es, context.fs, context.gs].map(u64::from);
    enter(vcpu, info, mmu, &handler, &selectors)
}

fn enter(
    vcpu: &mut Vcpu,
    info: &InfoPage,
    mmu: &Mmu,
    handler: &Handler,
    extra: &[u64],
) -> Result<(), Failure> {
    if handler.address == 0 {
        return Err(Failure::Crash(format!("the kernel has no handler for: {}", handler.what)));
    }
    let masked = info.masked();
    let (frame, words) = frame(vcpu, masked, extra);
    let top = if vcpu.mode == Mode::User { vcpu.kernel_stack } else { vcpu.context.registers.rsp };
    let pointer = (top & !15).wrapping_sub((words as u64).wrapping_mul(8));
    vcpu.enter_kernel();
    let bytes = frame.get(..words).unwrap_or(&frame);
    vcpu.space(mmu).write_words(pointer, bytes).map_err(|failure| match failure {
        Failure::Refused(refusal) => Failure::Crash(format!(
            "the frame of a trap ({}) cannot be written at {pointer:#x}: {}",
            handler.what, refusal.why
        )),
        other => other,
    })?;
    if handler.masks_events {
        info.set_masked(true);
    }
    set_registers(vcpu, handler, pointer);
    Ok(())
}

/// The longest frame: RCX, R11, four selectors, RIP, CS, RFLAGS, RSP, SS.
const LONGEST: usize = 11;

/// The frame, lowest address first, and its length in words.
fn frame(vcpu: &Vcpu, masked: bool, extra: &[u64]) -> ([u64; LONGEST], usize) {
    let registers = &vcpu.context.registers;
    let rpl_mask = if vcpu.mode == Mode::Kernel { !3 } else { !0 };
    let cs = u64::from(vcpu.context.cs & rpl_mask) | u64::from(masked) << 32;
    let mut flags = registers.rflags & !(rflags::IF | rflags::IOPL);
    flags |= if masked { 0 } else { rflags::IF };
    if vcpu.shows_iopl() {
        flags |= u64::from(vcpu.iopl & 3) << 12;
    }
    let tail = [registers.rip, cs, flags, registers.rsp, u64::from(vcpu.context.ss)];
    let head = [registers.rcx, registers.r11];
    let words = head.iter().chain(extra).chain(&tail).copied();
    let (mut frame, mut length) = ([0; LONGEST], 0_usize);
    for (slot, word) in frame.iter_mut().zip(words) {
        *slot = word;
        length = length.saturating_add(1);
    }
    (frame, length)
}

fn set_registers(vcpu: &mut Vcpu, handler: &Handler, pointer: u64) {
    let context = &mut vcpu.context;
    if (context.cs, context.ss) != (handler.cs, FLAT_RING3_SS64) {
        (context.cs, context.ss) = (handler.cs, FLAT_RING3_SS64);
        context.segments_changed = true;
    }
    context.registers.rip = handler.address;
    context.registers.rsp = pointer;
    context.registers.rflags = context.registers.rflags & !CLEARED | rflags::IF | rflags::RESERVED1;
    if handler.clears_direction {
        context.registers.rflags &= !rflags::DF;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fault_that_nobody_handles_is_told_with_its_access() {
        let (present, write, fetch) = (PageFaultError::PRESENT, PageFaultError::WRITE, PageFaultError::FETCH);
        for (error, told) in [
            (PageFaultError::empty(), "PAGE_FAULT at 0x1000 (read, not mapped; error code 0x0)"),
            (present, "PAGE_FAULT at 0x1000 (read, not permitted; error code 0x1)"),
            (write, "PAGE_FAULT at 0x1000 (write, not mapped; error code 0x2)"),
            (present | write, "PAGE_FAULT at 0x1000 (write, not permitted; error code 0x3)"),
            (fetch, "PAGE_FAULT at 0x1000 (execute, not mapped; error code 0x10)"),
            (present | fetch, "PAGE_FAULT at 0x1000 (execute, not permitted; error code 0x11)"),
        ] {
            assert_eq!(What::PageFault { address: 0x1000, error }.to_string(), told);
        }
        assert_eq!(What::Named("event").to_string(), "event");
    }
}
