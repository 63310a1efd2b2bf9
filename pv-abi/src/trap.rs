//! Traps: the trap table, the frames that a kernel's handlers see, the iret frame (`arch-x86/xen.h`,
//! `arch-x86/xen-x86_64.h`).
//!
//! A handler finds, from the stack pointer up: RCX, R11, the error code where the exception has one, RIP, CS,
//! RFLAGS, RSP, SS. Bits 32–39 of the CS slot hold the saved upcall mask, and IF in RFLAGS is its inverse.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries that a trap table can set: one a vector.
pub const VECTORS: usize = 256;

/// One entry of the trap table (`struct trap_info`). The table ends at an entry with `address` 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrapInfo {
    /// The vector of the exception or of the `int` instruction. 0 in the list's last entry.
    pub vector: u8,
    /// Bits 0–1: who may enter by `int n` (0 nobody, 1 and 2 the kernel, 3 everyone). Bit 2: masks events.
    pub flags: u8,
    /// Code selector of the handler.
    pub cs: u16,
    /// Padding of the C structure.
    pub padding: u32,
    /// Address of the handler.
    pub address: u64,
}
layout!(TrapInfo: 16, vector @ 0, flags @ 1, cs @ 2, address @ 8);

impl TrapInfo {
    /// Bit of `flags`: enter the handler with upcalls masked (`TI_SET_IF`).
    pub const MASKS_EVENTS: u8 = 4;

    /// The privilege level of `flags` (`TI_GET_DPL`).
    pub const fn dpl(&self) -> u8 {
        self.flags & 3
    }

    /// Whether its handler is entered with upcalls masked (`TI_GET_IF`).
    pub const fn masks_events(&self) -> bool {
        self.flags & Self::MASKS_EVENTS != 0
    }
}

/// What `iret` pops: it lies at the stack pointer (`struct iret_context`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IretContext {
    /// RAX is loaded from here: the hypercall itself leaves no result.
    pub rax: u64,
    /// Restored unless [`IretFlags::IN_SYSCALL`].
    pub r11: u64,
    /// Restored unless [`IretFlags::IN_SYSCALL`].
    pub rcx: u64,
    /// How to return: bits of [`IretFlags`].
    pub flags: u64,
    /// The address at which the guest goes on.
    pub rip: u64,
    /// Code selector; bits 16–63 are ignored. Its RPL chooses the mode: 3 is user mode.
    pub cs: u64,
    /// Flags; IF is the inverse of the new upcall mask.
    pub rflags: u64,
    /// RSP is loaded from here, for both modes.
    pub rsp: u64,
    /// The selector of the stack.
    pub ss: u64,
}
layout!(IretContext: 72, rax @ 0, flags @ 24, rip @ 32, cs @ 40, rflags @ 48, rsp @ 56, ss @ 64);

bitflags! {
    /// Flags of an [`IretContext`] (`VGCF_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct IretFlags: u64 {
        /// The frame is a system call's: RCX and R11 need not be restored.
        const IN_SYSCALL = 1 << 8;
    }
}

wire_enum! {
    /// The processor's exception vectors (Intel SDM volume 3, 6.3.1).
    pub struct Vector(u8) {
        /// #DE: division by zero or overflow.
        DIVIDE_ERROR = 0,
        /// #DB: a breakpoint or a single step.
        DEBUG = 1,
        /// Non-maskable interrupt.
        NMI = 2,
        /// #BP: the instruction `int3`.
        BREAKPOINT = 3,
        /// #OF: the instruction `into`, of 32-bit code, found an overflow.
        OVERFLOW = 4,
        /// #BR: the instruction `bound`, of 32-bit code, found an index outside.
        BOUND_RANGE = 5,
        /// #UD: an instruction that does not exist, or is not allowed.
        INVALID_OPCODE = 6,
        /// #NM: FPU not available.
        DEVICE_NOT_AVAILABLE = 7,
        /// #DF: an exception while one was delivered.
        DOUBLE_FAULT = 8,
        /// #TS: a task state segment that is not valid.
        INVALID_TSS = 10,
        /// #NP: segment not present.
        SEGMENT_NOT_PRESENT = 11,
        /// #SS: an address outside of the stack segment, or not canonical.
        STACK_FAULT = 12,
        /// #GP: general protection.
        GENERAL_PROTECTION = 13,
        /// #PF: a page that is not mapped so. CR2 has the address.
        PAGE_FAULT = 14,
        /// #MF: an exception of the x87 unit.
        X87_ERROR = 16,
        /// #AC: an address that is not aligned, where that is checked.
        ALIGNMENT_CHECK = 17,
        /// #MC: the processor found an error of the machine.
        MACHINE_CHECK = 18,
        /// #XM: an exception of the SSE unit.
        SIMD_ERROR = 19,
    }
}

impl Vector {
    /// Whether the processor pushes an error code for it.
    pub const fn has_error_code(self) -> bool {
        matches!(self.0, 8 | 10..=14 | 17 | 21 | 29 | 30)
    }
}

bitflags! {
    /// A page fault's error code.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PageFaultError: u64 {
        /// The page was present: a protection fault.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access came from code at CPL3.
        const USER = 1 << 2;
        /// A reserved bit was set in an entry.
        const RESERVED = 1 << 3;
        /// The access was the fetch of an instruction.
        const FETCH = 1 << 4;
    }
}

/// Bits of RFLAGS that this ABI speaks of.
pub mod rflags {
    /// Bit 1, which is always set.
    pub const RESERVED1: u64 = 1 << 1;
    /// Trap after each instruction.
    pub const TF: u64 = 1 << 8;
    /// Interrupts; in frames the inverse of the upcall mask.
    pub const IF: u64 = 1 << 9;
    /// String instructions go towards lower addresses.
    pub const DF: u64 = 1 << 10;
    /// I/O privilege level, two bits.
    pub const IOPL: u64 = 3 << 12;
    /// The task is nested in another; no code of a guest has it set.
    pub const NT: u64 = 1 << 14;
    /// Resume: no breakpoint at the next instruction.
    pub const RF: u64 = 1 << 16;
    /// The processor is in virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment is checked at CPL3.
    pub const AC: u64 = 1 << 18;
    /// What a program at CPL3 may own: CF PF AF ZF SF TF DF OF NT AC ID.
    pub const USER_MASK: u64 = 0x0024_4dd5;
}
