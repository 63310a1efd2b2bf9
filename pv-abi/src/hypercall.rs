//! Hypercall numbers and the calling convention (`xen.h`, `arch-x86/xen-x86_64.h`).
//!
//! A guest loads the number into RAX and up to six arguments into RDI, RSI, RDX, R10, R8, R9; the result comes
//! back in RAX: a value, or an error number negated. Through `syscall`, RCX and R11 are lost.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A hypercall's number (`__HYPERVISOR_*`, `xen.h`).
    pub struct HypercallNumber(u64) {
        /// Replaces the trap table.
        SET_TRAP_TABLE = 0,
        /// A batch of checked page-table updates.
        MMU_UPDATE = 1,
        /// Replaces the descriptor table.
        SET_GDT = 2,
        /// Sets the kernel stack that traps from user mode arrive on.
        STACK_SWITCH = 3,
        /// Legacy form of `callback_op`.
        SET_CALLBACKS = 4,
        /// Sets or clears CR0.TS.
        FPU_TASKSWITCH = 5,
        /// Legacy form of `sched_op`.
        SCHED_OP_COMPAT = 6,
        /// Platform control; host domain only.
        PLATFORM_OP = 7,
        /// Writes a debug register.
        SET_DEBUGREG = 8,
        /// Reads a debug register.
        GET_DEBUGREG = 9,
        /// Replaces one descriptor of a descriptor table.
        UPDATE_DESCRIPTOR = 10,
        /// Memory reservations, map and tables.
        MEMORY_OP = 12,
        /// A batch of hypercalls.
        MULTICALL = 13,
        /// One checked update of the L1 entry that maps an address.
        UPDATE_VA_MAPPING = 14,
        /// Sets the vCPU's timer.
        SET_TIMER_OP = 15,
        /// Version, features and the like.
        XEN_VERSION = 17,
        /// The emergency console.
        CONSOLE_IO = 18,
        /// Lends pages to other domains, and maps what they lend.
        GRANT_TABLE_OP = 20,
        /// Optional emulation modes.
        VM_ASSIST = 21,
        /// `UPDATE_VA_MAPPING` on behalf of another domain.
        UPDATE_VA_MAPPING_OTHERDOMAIN = 22,
        /// Returns from a trap, an event or a system call.
        IRET = 23,
        /// Operations on a vCPU of the own domain.
        VCPU_OP = 24,
        /// Sets the base of FS or GS, or loads the selector of user mode's GS.
        SET_SEGMENT_BASE = 25,
        /// A batch of extended page-table operations.
        MMUEXT_OP = 26,
        /// Asks or changes the security policy (XSM).
        XSM_OP = 27,
        /// Non-maskable interrupts.
        NMI_OP = 28,
        /// Yield, block, poll, shut down.
        SCHED_OP = 29,
        /// Registers entry points of the kernel.
        CALLBACK_OP = 30,
        /// Controls the profiler.
        XENOPROF_OP = 31,
        /// Binds, closes and signals event channels.
        EVENT_CHANNEL_OP = 32,
        /// Physical devices; I/O privilege.
        PHYSDEV_OP = 33,
        /// Hardware-virtualised domains.
        HVM_OP = 34,
        /// System control; host domain only.
        SYSCTL = 35,
        /// Domain control; host domain only.
        DOMCTL = 36,
        /// Loads and starts another kernel (kexec).
        KEXEC_OP = 37,
        /// Transcendent memory, gone.
        TMEM_OP = 38,
        /// Sends messages between domains (Argo).
        ARGO_OP = 39,
        /// Controls the virtual performance counters.
        XENPMU_OP = 40,
        /// What an emulator of devices does for its domain.
        DM_OP = 41,
        /// The hypervisor's file system.
        HYPFS_OP = 42,
    }
}

/// Bytes that each entry of the hypercall page has: entry n starts at `n * 32`.
pub const HYPERCALL_PAGE_ENTRY_SIZE: usize = 32;

/// One call of a batch (`struct multicall_entry`, `xen.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MulticallEntry {
    /// The number of the hypercall that is to be made.
    pub op: u64,
    /// Written by the hypervisor: what the call returned.
    pub result: u64,
    /// The hypercall's arguments. As many as it has are read.
    pub args: [u64; 6],
}
layout!(MulticallEntry: 64, op @ 0, result @ 8, args @ 16);
