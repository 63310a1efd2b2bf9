//! The first context of a vCPU, as `VCPUOP_initialise` takes it (`struct vcpu_guest_context`, `arch-x86/xen.h`;
//! `struct cpu_user_regs`, `arch-x86/xen-x86_64.h`).

use crate::address::Mfn;
use crate::trap::{TrapInfo, VECTORS};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// General registers and selectors (`struct cpu_user_regs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct UserRegisters {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The hypervisor's own; ignored.
    pub error_code: u32,
    /// The hypervisor's own; ignored.
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u16,
    pub padding0: u16,
    /// Ignored: upcalls of a vCPU start masked.
    pub saved_upcall_mask: u8,
    pub padding1: [u8; 3],
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    pub padding2: [u16; 3],
    pub es: u16,
    pub padding3: [u16; 3],
    pub ds: u16,
    pub padding4: [u16; 3],
    pub fs: u16,
    pub padding5: [u16; 3],
    pub gs: u16,
    pub padding6: [u16; 3],
}
layout!(UserRegisters: 200,
    rbx @ 40, rax @ 80, rdi @ 112, error_code @ 120, rip @ 128, cs @ 136, saved_upcall_mask @ 140, rflags @ 144,
    rsp @ 152, ss @ 160, es @ 168, ds @ 176, fs @ 184, gs @ 192);

bitflags! {
    /// Flags of a [`GuestContext`] (`VGCF_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct GuestContextFlags: u64 {
        /// The context holds a state of the FPU, which otherwise starts as after reset (`VGCF_I387_VALID`).
        const FPU_VALID = 1 << 0;
        /// The vCPU starts in kernel mode.
        const IN_KERNEL = 1 << 2;
        /// The failsafe callback is entered with upcalls masked.
        const FAILSAFE_DISABLES_EVENTS = 1 << 3;
        /// The system call callback is.
        const SYSCALL_DISABLES_EVENTS = 1 << 4;
        /// The vCPU runs at once.
        const ONLINE = 1 << 5;
    }
}

/// A vCPU's first context (`struct vcpu_guest_context`).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GuestContext {
    /// `fpu_ctxt`: the FPU's state, as `fxsave` lays it out.
    pub floating_point: [u8; 512],
    /// [`GuestContextFlags`].
    pub flags: u64,
    /// The general registers, RIP, RFLAGS and the selectors.
    pub user_regs: UserRegisters,
    /// The trap table; each entry's place is its vector.
    pub trap_ctxt: [TrapInfo; VECTORS],
    /// Address of the local descriptor table.
    pub ldt_base: u64,
    /// How many entries the LDT has.
    pub ldt_ents: u64,
    /// Frames of the descriptor table.
    pub gdt_frames: [Mfn; 16],
    /// How many entries the GDT has.
    pub gdt_ents: u64,
    /// Stack selector for traps from user mode.
    pub kernel_ss: u64,
    /// Stack pointer for traps from user mode.
    pub kernel_sp: u64,
    /// Control registers: 1 and 3 are machine addresses of the roots of user and kernel mode.
    pub ctrlreg: [u64; 8],
    /// DR0 to DR7. DR4 and DR5 have no meaning.
    pub debugreg: [u64; 8],
    /// Address of the event callback; 0 is none, as with the next two.
    pub event_callback_eip: u64,
    /// Address of the failsafe callback.
    pub failsafe_callback_eip: u64,
    /// Address of the system call callback.
    pub syscall_callback_eip: u64,
    /// `vm_assist` bits; those of the domain, so that all but the first vCPU's are ignored.
    pub vm_assist: u64,
    /// The base of FS when the vCPU starts; both modes share it.
    pub fs_base: u64,
    /// GS base of kernel mode.
    pub gs_base_kernel: u64,
    /// The base of GS while user mode runs.
    pub gs_base_user: u64,
}
layout!(GuestContext: 5168,
    flags @ 512, user_regs @ 520, trap_ctxt @ 720, ldt_base @ 4816, ldt_ents @ 4824, gdt_frames @ 4832,
    gdt_ents @ 4960, kernel_ss @ 4968, kernel_sp @ 4976, ctrlreg @ 4984, debugreg @ 5048,
    event_callback_eip @ 5112, failsafe_callback_eip @ 5120, syscall_callback_eip @ 5128, vm_assist @ 5136,
    fs_base @ 5144, gs_base_kernel @ 5152, gs_base_user @ 5160);

impl core::fmt::Debug for GuestContext {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let flags = GuestContextFlags::from_bits_retain(self.flags);
        f.debug_struct("GuestContext")
            .field("flags", &flags)
            .field("user_regs", &self.user_regs)
            .finish_non_exhaustive()
    }
}
