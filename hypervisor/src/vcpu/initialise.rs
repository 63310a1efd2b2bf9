//! `VCPUOP_initialise`: a vCPU's first context, as another vCPU of its domain wrote it.
//!
//! The context is a copy, read once. All of it is checked before anything is taken; what is taken (frames of
//! descriptors, root tables) goes to the vCPU's private state at once, so that it is given back with the vCPU
//! whatever happens next. What needs no check here passes [`super::resume::prepare`] before each entry: selectors,
//! flags, and that RIP is the guest's own.
//!
//! Three things are not as on Xen: a local descriptor table is refused; CR0.TS is refused on a machine that raises no #NM;
//! and the FPU starts as after reset, also where the context holds a state for it.

use super::{Callback, Callbacks, Mode, Vcpu};
use crate::error::{Failure, Refusal};
use crate::machine::{CR0_TS, Registers};
use crate::paging::{Budget, Mmu, Progress};
use pv_abi::address::is_canonical;
use pv_abi::guest_context::{GuestContext, GuestContextFlags, UserRegisters};
use pv_abi::segment::{DESCRIPTORS_PER_FRAME, FIRST_RESERVED_GDT_ENTRY};
use pv_abi::trap::{TrapInfo, rflags};
use pv_abi::{Errno, Mfn};

const fn invalid(why: &'static str) -> Refusal {
    Refusal::new(Errno::EINVAL, why)
}

/// Gives a vCPU that has never run its first context. Interrupted, it is to be called again with the same one. `raises_nm` is
/// whether the machine raises #NM while CR0.TS is set.
///
/// # Errors
/// −EINVAL for what no vCPU can start with, and what taking descriptors and root tables is refused with.
pub fn initialise(
    vcpu: &mut Vcpu,
    mmu: &Mmu,
    first: &GuestContext,
    raises_nm: bool,
    budget: &mut Budget,
) -> Result<Progress, Failure> {
    check_addresses(first)?;
    let gdt = gdt_frames(first)?;
    let flags = GuestContextFlags::from_bits_retain(first.flags);
    let in_kernel = flags.contains(GuestContextFlags::IN_KERNEL);
    let [cr0, user, _, kernel, ..] = first.ctrlreg;
    if cr0 & CR0_TS != 0 && !raises_nm {
        return Err(invalid("CR0.TS is set, and the host's KVM raises no #NM").into());
    }
    if !in_kernel && user == 0 {
        return Err(invalid("user mode has no root table").into());
    }
    let user = (user != 0).then_some(Mfn::containing(user));
    let domain = vcpu.domain;
    if mmu.new_baseptr(domain, &mut vcpu.roots, Mfn::containing(kernel), budget)? == Progress::Preempted
        || mmu.new_user_baseptr(domain, &mut vcpu.roots, user, budget)? == Progress::Preempted
        || vcpu.gdt.replace(mmu, domain, gdt, first.gdt_ents as u32, budget)? == Progress::Preempted
    {
        return Ok(Progress::Preempted);
    }
    vcpu.mode = if in_kernel { Mode::Kernel } else { Mode::User };
    set_entries(vcpu, first, flags);
    set_context(vcpu, first);
    vcpu.reload_root();
    vcpu.reload_descriptors(mmu);
    Ok(Progress::Done)
}

/// Every address that a processor will be given is canonical.
fn check_addresses(first: &GuestContext) -> Result<(), Refusal> {
    let addresses = [
        first.user_regs.rip,
        first.user_regs.rsp,
        first.kernel_sp,
        first.fs_base,
        first.gs_base_kernel,
        first.gs_base_user,
        first.event_callback_eip,
        first.failsafe_callback_eip,
        first.syscall_callback_eip,
    ];
    let handlers = first.trap_ctxt.iter().map(|entry| entry.address);
    if !addresses.into_iter().chain(handlers).all(is_canonical) {
        return Err(invalid("an address is not canonical"));
    }
    if first.ldt_ents != 0 {
        return Err(invalid("local descriptor tables are not offered"));
    }
    Ok(())
}

/// The frames of the descriptor table.
fn gdt_frames(first: &GuestContext) -> Result<&[Mfn], Refusal> {
    let entries = u32::try_from(first.gdt_ents).ok().filter(|&entries| entries <= FIRST_RESERVED_GDT_ENTRY);
    let frames = entries.map(|entries| entries.div_ceil(DESCRIPTORS_PER_FRAME) as usize);
    frames.and_then(|count| first.gdt_frames.get(..count)).ok_or(invalid("that many descriptors do not fit"))
}

/// Where the kernel is entered.
fn set_entries(vcpu: &mut Vcpu, first: &GuestContext, flags: GuestContextFlags) {
    let callback = |address, masks_events| (address != 0).then_some(Callback { address, masks_events });
    vcpu.callbacks = Callbacks {
        event: callback(first.event_callback_eip, true),
        failsafe: callback(
            first.failsafe_callback_eip,
            flags.contains(GuestContextFlags::FAILSAFE_DISABLES_EVENTS),
        ),
        syscall: callback(
            first.syscall_callback_eip,
            flags.contains(GuestContextFlags::SYSCALL_DISABLES_EVENTS),
        ),
        ..Callbacks::default()
    };
    for (vector, entry) in (0..=u8::MAX).zip(first.trap_ctxt) {
        vcpu.traps.set(TrapInfo { vector, ..entry });
    }
    vcpu.kernel_stack = first.kernel_sp;
}

/// What a processor loads.
fn set_context(vcpu: &mut Vcpu, first: &GuestContext) {
    let regs = &first.user_regs;
    vcpu.iopl = (regs.rflags >> 12 & 3) as u8;
    let [cr0, _, _, _, cr4, ..] = first.ctrlreg;
    vcpu.context.task_switched = cr0 & CR0_TS != 0;
    vcpu.set_cr4(cr4);
    for (number, value) in (0..).zip(first.debugreg) {
        // As on Xen, what cannot be set is left out.
        let _ = vcpu.set_debug_register(number, value);
    }
    let context = &mut vcpu.context;
    context.registers = registers(regs);
    (context.cs, context.ss) = (regs.cs | 3, regs.ss | 3);
    (context.ds, context.es, context.fs, context.gs) = (regs.ds, regs.es, regs.fs, regs.gs);
    context.fs_base = first.fs_base;
    let (kernel, user) = (first.gs_base_kernel, first.gs_base_user);
    (context.gs_base, vcpu.other_gs_base) = match vcpu.mode {
        Mode::Kernel => (kernel, user),
        Mode::User => (user, kernel),
    };
    context.segments_changed = true;
}

fn registers(r: &UserRegisters) -> Registers {
    Registers {
        rax: r.rax,
        rbx: r.rbx,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rbp: r.rbp,
        rsp: r.rsp,
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rip: r.rip,
        rflags: r.rflags & rflags::USER_MASK | rflags::IF | rflags::RESERVED1,
    }
}
