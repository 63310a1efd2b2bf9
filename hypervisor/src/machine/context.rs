//! The seam between the machine and what it runs: everything of a vCPU that a pcpu must load, and why it stopped.

use super::sanitise::{Sanitised, sanitise};
use super::{MachineError, Root};
use pv_abi::segment::{FIRST_RESERVED_GDT_BYTE, FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::Vector;
use std::fmt;

/// General registers. Always those of code at CPL3, whatever the hardware did to report them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// FPU, vector and other extended state.
#[derive(Clone, Debug, Default)]
pub enum FpuState {
    /// The state after a reset of the processor.
    #[default]
    Initial,
    /// What was saved of a vCPU, in the standard format of XSAVE (Intel SDM volume 1, 13.4).
    Xsave(Box<XsaveArea>),
}

/// The 4096 bytes of [`FpuState::Xsave`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct XsaveArea(pub [u32; 1024]);

impl fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XsaveArea")
    }
}

/// Debug registers: what stands here is loaded, as far as [`Pcpu::enter`]'s own check lets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRegisters {
    /// DR0 to DR3: the linear addresses of the four breakpoints.
    pub addresses: [u64; 4],
    /// DR6; read back after a #DB.
    pub status: u64,
    /// DR7: which breakpoints are armed, of which kind and length.
    pub control: u64,
}

impl DebugRegisters {
    /// DR6 with nothing to tell.
    pub const STATUS_AT_REST: u64 = 0xffff_0ff0;
    /// DR7 with nothing armed.
    pub const CONTROL_AT_REST: u64 = 1 << 10;
}

impl Default for DebugRegisters {
    fn default() -> Self {
        Self { addresses: [0; 4], status: Self::STATUS_AT_REST, control: Self::CONTROL_AT_REST }
    }
}

/// CR0 of all guests, but for TS, which is a vCPU's own: PE MP ET NE WP AM PG, as on Xen.
pub const CR0: u64 = 0x8005_0033;
/// CR0: the next use of the FPU raises #NM.
pub const CR0_TS: u64 = 1 << 3;
/// CR4: programs set FS and GS bases by instructions of their own.
pub const CR4_FSGSBASE: u64 = 1 << 16;

/// The base that a descriptor of code or data holds: 32 bits, in three parts.
pub const fn descriptor_base(descriptor: u64) -> u64 {
    descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000
}

/// All of a vCPU that a pcpu loads.
///
/// Selectors are what the guest asked for, not what the hardware shows: on some hosts the two differ.
#[derive(Debug)]
pub struct Context {
    /// General registers, RIP, RFLAGS.
    pub registers: Registers,
    /// Code selector; the RPL is 3.
    pub cs: u16,
    /// Stack selector; the RPL is 3.
    pub ss: u16,
    /// DS, a data selector. One that names neither data of CPL3 nor code that CPL3 can read is loaded as null.
    pub ds: u16,
    /// ES, a data selector: see `ds`.
    pub es: u16,
    /// FS, a data selector: see `ds`. Its base is `fs_base`.
    pub fs: u16,
    /// GS, a data selector: see `ds`. Its base is `gs_base`.
    pub gs: u16,
    /// FS base; read back at every exit, since a guest may change it.
    pub fs_base: u64,
    /// GS base of the mode that the vCPU is in; read back at every exit.
    pub gs_base: u64,
    /// The root table of the mode that the vCPU is in.
    pub root: Root,
    /// Set by whoever exchanges the root for one under which the old may cease to be a root before the next entry:
    /// the pcpu then leaves the old one without executing anything on it.
    pub root_replaced: bool,
    /// The guest's part of the GDT: descriptors from entry 0 on, already validated.
    pub descriptors: Vec<u64>,
    /// The debug registers that the guest runs with.
    pub debug: DebugRegisters,
    /// FPU state; valid while the vCPU is on no pcpu.
    pub fpu: FpuState,
    /// XCR0: which extended state the guest's code may use; none means all that the machine offers. Where the host's KVM
    /// does not honour it (`docs/security.md`), all may be used.
    pub xcr0: Option<u64>,
    /// CR4.FSGSBASE: whether its code may set FS and GS bases by instructions of its own, where the machine offers that.
    /// Where the host's KVM does not honour it, it may whatever stands here.
    pub fsgsbase: bool,
    /// CR0.TS: whether the next use of the FPU raises #NM. Where the host's KVM does not honour it, nothing is raised.
    pub task_switched: bool,
    /// Identifies the vCPU to the pcpus, so that a pcpu knows whether it still has it loaded.
    pub(crate) identity: u64,
    /// Set by whoever changes selectors or `descriptors`; a pcpu reloads them then.
    pub segments_changed: bool,
}

/// Descriptors of the flat segments, at the hypervisor's end of each GDT.
pub const CODE64_RING3: u64 = 0x00af_fb00_0000_ffff;
/// The flat code segment of 32-bit code at CPL3: see [`CODE64_RING3`].
pub const CODE32_RING3: u64 = 0x00cf_fb00_0000_ffff;
/// The flat data segment at CPL3, for stacks as well: see [`CODE64_RING3`].
pub const DATA_RING3: u64 = 0x00cf_f300_0000_ffff;

impl Context {
    /// The descriptor that `selector` names: a flat one, or one of the guest's part of the GDT. None for a null selector and
    /// for those of the hypervisor's own.
    pub fn descriptor(&self, selector: u16) -> Option<u64> {
        match selector | 3 {
            FLAT_RING3_CS64 => Some(CODE64_RING3),
            FLAT_RING3_CS32 => Some(CODE32_RING3),
            FLAT_RING3_SS64 => Some(DATA_RING3),
            _ if u32::from(selector) >= FIRST_RESERVED_GDT_BYTE || selector & !3 == 0 => None,
            _ => self.descriptors.get(usize::from(selector >> 3)).copied(),
        }
    }

    /// The base of its code segment, and the size of the code there: 64, 32 or 16 bits. That of 64 bits has no base.
    pub fn code_segment(&self) -> (u64, u32) {
        const LONG: u64 = 1 << 53;
        const DEFAULT_32: u64 = 1 << 54;
        match self.cs {
            FLAT_RING3_CS64 => (0, 64),
            FLAT_RING3_CS32 => (0, 32),
            own => match self.descriptors.get(usize::from(own >> 3)) {
                Some(descriptor) if descriptor & (LONG | DEFAULT_32) == 0 => {
                    (descriptor_base(*descriptor), 16)
                }
                Some(descriptor) if descriptor & LONG == 0 => (descriptor_base(*descriptor), 32),
                _ => (0, 64),
            },
        }
    }

    /// Whether its code segment is one of 32-bit or 16-bit code.
    pub fn runs_32_bit_code(&self) -> bool {
        self.code_segment().1 != 64
    }

    /// The linear address of its next instruction.
    pub fn instruction_address(&self) -> u64 {
        match self.code_segment() {
            (_, 64) => self.registers.rip,
            (base, _) => u64::from(base.wrapping_add(self.registers.rip) as u32),
        }
    }

    /// A vCPU that starts at `rip` on `root`, everything else as Xen's ABI has it at a start: flat selectors, all
    /// registers zero. `identity` must be unique within the machine.
    pub fn new(identity: u64, root: Root, rip: u64) -> Self {
        let registers = Registers { rip, rflags: 0x202, ..Registers::default() };
        Self {
            registers,
            cs: FLAT_RING3_CS64,
            ss: FLAT_RING3_SS64,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
            fs_base: 0,
            gs_base: 0,
            root,
            root_replaced: false,
            descriptors: Vec::new(),
            debug: DebugRegisters::default(),
            fpu: FpuState::Initial,
            xcr0: None,
            fsgsbase: false,
            task_switched: false,
            identity,
            segments_changed: true,
        }
    }
}

/// Whether a processor that offers the states in `offered` takes `value` for XCR0 (Intel SDM volume 1, 13.3).
pub fn is_valid_xcr0(value: u64, offered: u64) -> bool {
    const X87: u64 = 1;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const MPX: u64 = 1 << 3 | 1 << 4;
    const AVX512: u64 = 1 << 5 | 1 << 6 | 1 << 7;
    let needs = |part: u64, all: u64| value & part == 0 || value & all == all;
    value & !offered == 0
        && value & X87 != 0
        && needs(AVX, SSE)
        && needs(MPX, MPX)
        && needs(AVX512, AVX512 | AVX)
}

/// Why a vCPU stopped. Its [`Context`] is complete and up to date with every one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It executed `syscall` in 64-bit code. RIP and RFLAGS are those behind the instruction (RCX and R11 hold them,
    /// too). On machines that refuse the instruction it comes as #UD, as in 32-bit code it does on all.
    Syscall,
    /// It stored to the hypercall doorbell; RIP is behind the store.
    Doorbell,
    /// It rang a doorbell that does not hang there ([`super::Doorbells`]); RIP is behind the store.
    Unanswered,
    /// It raised an exception.
    Exception {
        /// The exception's vector, below 32.
        vector: u8,
        /// The hardware's error code; 0 where the vector has none.
        error_code: u64,
        /// CR2; meaningful for a page fault.
        cr2: u64,
    },
    /// Somebody kicked the pcpu, or its time is up; nothing happened to the vCPU.
    Kicked,
    /// It did something that this machine cannot carry out. #GP is the fair answer.
    Unhandled {
        /// What, for the log and the trace.
        what: Unhandled,
    },
}

/// What of a guest's doing a machine cannot carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unhandled {
    /// It accessed a doorbell's page, other than to ring. The vCPU is as before that.
    #[error("access to a doorbell's page other than to ring")]
    DoorbellAccess,
    /// An instruction that the machine had to emulate, and cannot. The vCPU is as before that.
    #[error("an instruction cannot be emulated (reason {reason})")]
    Emulation {
        /// The machine's own word for why.
        reason: u32,
    },
    /// A breakpoint on a load of SS came late, at the vector of an `int1` behind it. The vCPU is where it was last known.
    #[error("a breakpoint on a load of SS, with `int1` behind it")]
    LateBreakpoint,
}

/// A physical CPU of the machine, used by one thread.
pub trait Pcpu: Send {
    /// Runs the vCPU until something happens.
    ///
    /// The context may hold anything that a guest put there: RIP, RFLAGS, selectors, bases and breakpoints are sanitised
    /// here, by one function, for every machine. A non-canonical RIP comes back as [`Exit::Exception`] with #GP.
    ///
    /// # Errors
    /// The host's, or an exception in the stub: the pcpu cannot be used any more. A context without a root is refused as
    /// one of the host's, since no guest can make one.
    fn enter(&mut self, context: &mut Context) -> Result<Exit, MachineError> {
        if context.root == Root::NONE {
            return Err(MachineError::new(
                "a vCPU cannot be entered",
                std::io::Error::other("it has no root table"),
            ));
        }
        match sanitise(context) {
            Some(context) => self.run(context),
            None => Ok(Exit::Exception { vector: Vector::GENERAL_PROTECTION.0, error_code: 0, cr2: 0 }),
        }
    }

    /// What a machine does for [`Self::enter`], which alone calls it. When it returns:
    /// - the context is complete but for the FPU's state, and says where the guest goes on;
    /// - nothing of the vCPU is half-done in the machine, and no exception of it is still to be delivered;
    /// - whatever was to be flushed when it was called was flushed before the guest's first instruction.
    ///
    /// A kick that came before makes it return at once.
    ///
    /// # Errors
    /// As [`Self::enter`].
    fn run(&mut self, context: Sanitised<'_>) -> Result<Exit, MachineError>;

    /// Saves what the pcpu still holds of `context` (its FPU state) into it, so that another pcpu can enter it.
    ///
    /// # Errors
    /// As [`Self::enter`].
    fn save(&mut self, context: &mut Context) -> Result<(), MachineError>;

    /// Reads the TSC as a guest on this pcpu reads it now.
    fn guest_tsc(&self) -> u64;
}

/// Wakes a pcpu from guest mode, from any thread: [`Pcpu::enter`] returns soon after, or at its next call.
pub trait Kick: Send + Sync {
    /// Kicks the pcpu. Does not wait until the pcpu has left guest mode.
    fn kick(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_32_bit_code_come_round() {
        let mut context = Context::new(1, Root::NONE, 0xffff_fff0);
        context.descriptors = vec![0, 0x00cf_fb00_0000_ffff | 0x40_0000 << 16];
        context.cs = 0xb;
        assert_eq!(context.instruction_address(), 0x3f_fff0);
    }
}
