//! Writable page tables (`VMASST_TYPE_writable_pagetables`): a kernel stores to an L1 table of its own, which it has mapped
//! read-only, and the store is carried out as a checked update of the entry.
//!
//! Whatever is not exactly such a store, and an update that is refused,
//! is the guest's own #PF (`tests`).

mod store;

#[cfg(test)]
mod tests;

use super::{Fault, fetch, operand};
use crate::error::{Failure, Refusal};
use crate::paging::{Batch, Budget, Progress};
use crate::services::{STEPS, Services};
use crate::vcpu::{Mode, Vcpu};
use iced_x86::{Code, Instruction, OpKind};
use pv_abi::trap::{PageFaultError, rflags};
use pv_abi::{Errno, PAGE_SHIFT};
use store::Store;

/// Entries that a repeated instruction stores before others are let run.
const ENTRIES_AT_ONCE: u64 = 64;
/// Bytes of a page-table entry.
const ENTRY: u64 = 8;

/// Carries out the store that raised `fault`. True where it was, or has come so far that the guest is to execute it again.
///
/// # Errors
/// The machine's, and the domain is lost.
pub fn carry_out(services: &Services, vcpu: &mut Vcpu, fault: Fault) -> Result<bool, Failure> {
    const WRITE_TO_PRESENT: PageFaultError = PageFaultError::PRESENT.union(PageFaultError::WRITE);
    let why = PageFaultError::from_bits_retain(fault.error_code).difference(PageFaultError::USER);
    let is_store = why == WRITE_TO_PRESENT && vcpu.mode == Mode::Kernel && vcpu.writes_page_tables();
    if !is_store || vcpu.context.runs_32_bit_code() {
        return Ok(false);
    }
    let Some(instruction) = fetch(services, vcpu)? else { return Ok(false) };
    let mut batch = Batch::new(vcpu.domain, Budget::new(STEPS));
    let carried = match instruction.code() {
        Code::Stosq_m64_RAX | Code::Movsq_m64_m64 => {
            string(services, vcpu, &instruction, fault.cr2, &mut batch)
        }
        _ => single(services, vcpu, &instruction, fault.cr2, &mut batch),
    };
    services.mmu.finish(batch)?;
    match carried {
        Ok(()) => Ok(true),
        Err(Failure::Refused(refusal)) => {
            let (domain, rip) = (vcpu.domain, vcpu.context.registers.rip);
            tracing::debug!(%domain, rip, address = fault.cr2, "a store is no update of a page table: {refusal}");
            Ok(false)
        }
        Err(other) => Err(other),
    }
}

const NOT_CARRIED_OUT: Refusal =
    Refusal::new(Errno::EFAULT, "the instruction is not one that is carried out");

/// Checks that an access of `bytes` bytes is aligned and in the page of `cr2`.
fn check_place(address: u64, bytes: u64, cr2: u64) -> Result<(), Refusal> {
    match address.is_multiple_of(bytes) && address >> PAGE_SHIFT == cr2 >> PAGE_SHIFT {
        true => Ok(()),
        false => Err(Refusal::new(Errno::EFAULT, "it is not aligned, or is not what raised the fault")),
    }
}

/// An instruction with one store.
fn single(
    services: &Services,
    vcpu: &mut Vcpu,
    instruction: &Instruction,
    cr2: u64,
    batch: &mut Batch,
) -> Result<(), Failure> {
    let context = &mut vcpu.context;
    let store = Store::decode(instruction, context).ok_or(NOT_CARRIED_OUT)?;
    check_place(store.address, store.bytes, cr2)?;
    let (entry, change) = (store.address & !(ENTRY - 1), |word| store.change(word));
    if let Some(word) = services.mmu.store_to_table(context.root.mfn(), entry, &change, batch)? {
        store.complete(word, &mut context.registers);
        context.registers.rip = instruction.next_ip();
    }
    Ok(())
}

/// `stosq` or `movsq`, repeated or not: some entries of those that are left, within the page. What is done of it is in
/// the registers; RIP stays at the instruction until all is.
fn string(
    services: &Services,
    vcpu: &mut Vcpu,
    instruction: &Instruction,
    cr2: u64,
    batch: &mut Batch,
) -> Result<(), Failure> {
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let left = if repeats { vcpu.context.registers.rcx } else { 1 };
    if left == 0 || instruction.op0_kind() != OpKind::MemoryESRDI {
        return Err(NOT_CARRIED_OUT.into()); // also with 32-bit addresses
    }
    // The processor traps after each entry, if after each instruction.
    let most = if vcpu.context.registers.rflags & rflags::TF == 0 { ENTRIES_AT_ONCE } else { 1 };
    for done in 0..left.min(most) {
        match element(services, vcpu, instruction, cr2, batch) {
            Ok(Progress::Done) => {}
            Ok(Progress::Preempted) => return Ok(()),
            // Executed again, it raises this fault at once.
            Err(Failure::Refused(_)) if done > 0 => return Ok(()),
            Err(failure) => return Err(failure),
        }
        let registers = &mut vcpu.context.registers;
        registers.rcx = registers.rcx.wrapping_sub(u64::from(repeats));
        if !repeats || registers.rcx == 0 {
            registers.rip = instruction.next_ip();
        }
    }
    Ok(())
}

/// One entry of [`string`].
fn element(
    services: &Services,
    vcpu: &mut Vcpu,
    instruction: &Instruction,
    cr2: u64,
    batch: &mut Batch,
) -> Result<Progress, Failure> {
    let (context, mmu) = (&vcpu.context, &services.mmu);
    let destination = context.registers.rdi;
    check_place(destination, ENTRY, cr2)?;
    let moves = instruction.code() == Code::Movsq_m64_m64;
    let value = match operand::address(instruction, 1, context).filter(|_| moves) {
        Some(source) => vcpu.space(mmu).read(source)?,
        None => context.registers.rax,
    };
    if mmu.store_to_table(context.root.mfn(), destination, &|_| Some(value), batch)?.is_none() {
        return Ok(Progress::Preempted);
    }
    let registers = &mut vcpu.context.registers;
    let step = if registers.rflags & rflags::DF == 0 { ENTRY } else { ENTRY.wrapping_neg() };
    registers.rdi = registers.rdi.wrapping_add(step);
    if moves {
        registers.rsi = registers.rsi.wrapping_add(step);
    }
    Ok(Progress::Done)
}
