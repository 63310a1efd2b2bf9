//! The last step before a vCPU runs: pending events are delivered, and everything that the guest chose is made
//! such that a processor can load it. Whatever way led here, hypercall, trap, `iret` or a switch, there is no
//! other way into a guest. The machine checks again, in its own terms.

use super::bounce::{bounce_event, bounce_unfit};
use super::{InfoPage, Vcpu};
use crate::error::Failure;
use crate::machine::{Context, descriptor_base};
use crate::paging::Mmu;
use pv_abi::address::is_canonical;
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::rflags;

/// What was done to make the vCPU fit to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// How many upcalls were delivered.
    pub upcalls: u32,
}

/// Makes the vCPU fit to run.
///
/// # Errors
/// [`Failure::Crash`] where the guest's kernel cannot be entered.
pub fn prepare(vcpu: &mut Vcpu, info: &InfoPage, mmu: &Mmu) -> Result<Prepared, Failure> {
    let mut prepared = Prepared::default();
    // An upcall masks further ones and handlers' registers are fit: at worst upcall, failsafe, upcall.
    for _ in 0..4 {
        if info.wants_upcall() {
            bounce_event(vcpu, info, mmu)?;
            prepared.upcalls = prepared.upcalls.saturating_add(1);
        }
        sanitise(&mut vcpu.context);
        match unfit(&vcpu.context) {
            None if info.wants_upcall() => {}
            None => return Ok(prepared),
            Some(error_code) => bounce_unfit(vcpu, info, mmu, error_code)?,
        }
    }
    Err(Failure::Crash("the kernel's handlers cannot be entered".into()))
}

/// Takes away what no guest may have, where that needs no asking.
fn sanitise(context: &mut Context) {
    let registers = &mut context.registers;
    registers.rflags = registers.rflags & rflags::USER_MASK | rflags::IF | rflags::RESERVED1;
    context.cs |= 3;
    context.ss |= 3;
    for base in [&mut context.fs_base, &mut context.gs_base] {
        if !is_canonical(*base) {
            *base = 0;
        }
    }
    for selector in [context.ds, context.es, context.fs, context.gs] {
        if selector > 3 && !is_data(selector, &context.descriptors) {
            (context.ds, context.es, context.fs, context.gs) = (0, 0, 0, 0);
            context.segments_changed = true;
        }
    }
}

/// The error code of the #GP that loading the context would raise.
fn unfit(context: &Context) -> Option<u64> {
    let code = matches!(context.cs, FLAT_RING3_CS64 | FLAT_RING3_CS32)
        || descriptor(context.cs, &context.descriptors).is_some_and(is_user_code);
    if !code {
        return Some(u64::from(context.cs & !3));
    }
    if !is_data(context.ss, &context.descriptors) {
        return Some(u64::from(context.ss & !3));
    }
    if is_canonical(context.registers.rip) { None } else { Some(0) }
}

/// The descriptor of a selector into the guest's part of the GDT.
fn descriptor(selector: u16, descriptors: &[u64]) -> Option<u64> {
    let in_gdt = selector & 4 == 0;
    descriptors.get(usize::from(selector >> 3)).copied().filter(|_| in_gdt)
}

/// Present, not a system descriptor, DPL 3.
fn is_user(descriptor: u64) -> bool {
    descriptor >> 44 & 0b1111 == 0b1111
}

fn is_user_code(descriptor: u64) -> bool {
    is_user(descriptor) && descriptor >> 43 & 1 == 1
}

/// The base of the segment that `selector` names. None where no data segment register can hold it.
pub fn data_base(selector: u16, descriptors: &[u64]) -> Option<u64> {
    is_data(selector, descriptors).then(|| descriptor(selector, descriptors).map_or(0, descriptor_base))
}

/// Whether a data or stack segment register can hold `selector`.
fn is_data(selector: u16, descriptors: &[u64]) -> bool {
    let writable = |found| is_user(found) && !is_user_code(found) && found >> 41 & 1 == 1;
    selector | 3 == FLAT_RING3_SS64 || descriptor(selector, descriptors).is_some_and(writable)
}
