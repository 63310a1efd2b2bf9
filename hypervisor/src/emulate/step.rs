//! One step of a guest's processor, made by the hypervisor: what trapped, and the effect that it has. What decides is
//! pure; [`Effect::apply`] alone changes anything.

use super::port::{Transfer, Transferred};
use super::table::find;
use super::{Carried, out};
use crate::cpuid::CpuidPolicy;
use crate::error::Failure;
use crate::machine::Registers;
use crate::paging::{Budget, Progress};
use crate::services::{STEPS, Services};
use crate::vcpu::debug::Breakpoints;
use crate::vcpu::{InfoPage, Vcpu, bounce_syscall32, bounce_sysenter, bounce_trap};
use iced_x86::Instruction;
use pv_abi::Mfn;
use pv_abi::address::is_canonical;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::{PageFaultError, Vector, rflags};

/// DR6.BS: the #DB is a single step's.
const SINGLE_STEP: u64 = 1 << 14;

/// An instruction that trapped, and all that its effect depends on beside general registers.
#[derive(Clone, Copy, Debug)]
pub struct Trapped<'a> {
    /// The instruction, as it was fetched.
    pub instruction: &'a Instruction,
    /// The exception that the instruction raised: #UD or #GP.
    pub vector: Vector,
    /// The vCPU that executed it.
    pub vcpu: &'a Vcpu,
    /// CR2 as the guest has it.
    pub cr2: u64,
    /// What the instruction `cpuid` tells this vCPU.
    pub policy: &'a dyn CpuidPolicy,
    /// Whether CR0.TS can be set ([`Services::raises_nm`]).
    pub raises_nm: bool,
}

impl Trapped<'_> {
    /// EAX, EBX, ECX and EDX of a leaf.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.policy.cpuid(leaf, subleaf)
    }

    /// What comes of it, by the table, and the general registers that it leaves. None where it is the guest's own fault.
    pub fn step(&self) -> Option<(Registers, Effect)> {
        let row = find(self.instruction.code()).filter(|row| row.rule.permits(self.vcpu))?;
        let mut registers = self.vcpu.context.registers;
        let effect = (row.step)(self, &mut registers)?;
        Some((registers, effect))
    }
}

/// What an instruction changes beside general registers, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// General registers change, or nothing does.
    Registers,
    /// CR2, as the guest's kernel finds it, gets this value.
    Cr2(u64),
    /// The root of kernel mode.
    Root(Mfn),
    /// CR0.TS is set or cleared.
    TaskSwitched(bool),
    /// CR4 is written with this value; bits that are not the kernel's to choose are ignored.
    Cr4(u64),
    /// XCR0 gets this value, which the machine offers.
    Xcr0(u64),
    /// All debug registers get these values.
    Breakpoints(Breakpoints),
    /// Ports are accessed, behind which there is nothing but breakpoints.
    Ports {
        /// The number of the first port.
        port: u16,
        /// How many ports, which is the bytes of the access: 1, 2 or 4.
        size: usize,
    },
    /// FS base gets this address, which is canonical.
    FsBase(u64),
    /// GS base of the mode that runs.
    GsBase(u64),
    /// GS base of the other mode.
    KernelGsBase(u64),
    /// Memory, or nothing where it is read.
    Transfer(Transfer),
    /// A trap of this vector, by `int n`. RIP is behind the instruction then.
    Interrupt(u8),
    /// Another exception than the one that it raised.
    Fault {
        /// The vector of the other exception.
        vector: Vector,
        /// The error code of the other exception; 0 where the vector has none.
        error_code: u64,
    },
    /// `syscall` of 64-bit code.
    Syscall,
    /// `syscall` of 32-bit code.
    Syscall32,
    /// `sysenter`. It is carried out for a program whose kernel has registered a callback for it.
    Sysenter,
}

impl Effect {
    /// Brings it about for an instruction of `length` bytes that leaves `registers`. None where that turns out to be the
    /// guest's own fault; nothing has changed then.
    ///
    /// # Errors
    /// [`Failure::Crash`] where the kernel cannot take what follows, or the machine's.
    pub fn apply(
        self,
        services: &Services,
        vcpu: &mut Vcpu,
        info: &InfoPage,
        length: u64,
        mut registers: Registers,
    ) -> Result<Option<Carried>, Failure> {
        let mmu = &*services.mmu;
        let next = behind(vcpu, length);
        let mut met = 0;
        match self {
            Self::Registers => {}
            Self::Cr2(value) => info.set_cr2(value),
            Self::Root(root) => match set_root(services, vcpu, root) {
                Ok(Progress::Done) => {}
                // It is executed again, and goes on then from where it stopped.
                Ok(Progress::Preempted) => return Ok(Some(Carried::Out)),
                Err(Failure::Refused(_)) => return Ok(None),
                Err(failure) => return Err(failure),
            },
            Self::TaskSwitched(set) => vcpu.context.task_switched = set,
            Self::Cr4(value) => vcpu.set_cr4(value),
            Self::Xcr0(value) => vcpu.context.xcr0 = Some(value),
            Self::Breakpoints(breakpoints) => vcpu.set_breakpoints(breakpoints),
            Self::Ports { port, size } => met = vcpu.breakpoints().met_by_io(port, size),
            Self::FsBase(base) => vcpu.context.fs_base = base,
            Self::GsBase(base) => vcpu.context.gs_base = base,
            Self::KernelGsBase(base) => vcpu.other_gs_base = base,
            Self::Transfer(transfer) => match transfer.carry_out(mmu, vcpu, &mut registers) {
                Some(Transferred::Empty) => {}
                Some(Transferred::All) => met = transfer.met(vcpu),
                Some(Transferred::Part) => {
                    vcpu.context.registers = registers;
                    let met = transfer.met(vcpu);
                    return trap_behind(services, vcpu, info, met).map(Some);
                }
                Some(Transferred::Nothing { bad, writes }) if is_canonical(bad.0) => {
                    let error = if writes { PageFaultError::WRITE } else { PageFaultError::empty() };
                    bounce_trap(vcpu, info, mmu, Vector::PAGE_FAULT.0, error.bits(), bad.0)?;
                    return Ok(Some(Carried::Out));
                }
                Some(Transferred::Nothing { .. }) | None => return Ok(None),
            },
            Self::Interrupt(vector) => {
                vcpu.context.registers.rip = next;
                bounce_trap(vcpu, info, mmu, vector, 0, 0)?;
                return Ok(Some(Carried::Out));
            }
            Self::Fault { vector, error_code } => {
                bounce_trap(vcpu, info, mmu, vector.0, error_code, 0)?;
                return Ok(Some(Carried::Out));
            }
            Self::Syscall => {
                let context = &mut vcpu.context;
                (context.cs, context.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
                let registers = &mut context.registers;
                registers.rip = next;
                (registers.rcx, registers.r11) = (registers.rip, registers.rflags);
                return Ok(Some(Carried::Syscall));
            }
            Self::Syscall32 => return Ok(out(bounce_syscall32(vcpu, info, mmu, length)?)),
            Self::Sysenter => return Ok(out(bounce_sysenter(vcpu, info, mmu)?)),
        }
        vcpu.context.registers = Registers { rip: next, ..registers };
        trap_behind(services, vcpu, info, met).map(Some)
    }
}

/// RIP behind an instruction of `length` bytes. 32-bit code has 32 bits of it.
fn behind(vcpu: &Vcpu, length: u64) -> u64 {
    let next = vcpu.context.registers.rip.wrapping_add(length);
    if vcpu.context.runs_32_bit_code() { u64::from(next as u32) } else { next }
}

fn set_root(services: &Services, vcpu: &mut Vcpu, root: Mfn) -> Result<Progress, Failure> {
    let mut budget = Budget::new(STEPS);
    let progress = services.mmu.new_baseptr(vcpu.domain, &mut vcpu.roots, root, &mut budget)?;
    vcpu.replace_root();
    Ok(progress)
}

/// What was carried out may be the one instruction that a debugger steps over.
pub fn single_step(services: &Services, vcpu: &mut Vcpu, info: &InfoPage) -> Result<Carried, Failure> {
    trap_behind(services, vcpu, info, 0)
}

/// #DB behind an instruction, where that is stepped over, or has met these breakpoints.
fn trap_behind(services: &Services, vcpu: &mut Vcpu, info: &InfoPage, met: u64) -> Result<Carried, Failure> {
    let step = if vcpu.context.registers.rflags & rflags::TF != 0 { SINGLE_STEP } else { 0 };
    if step | met != 0 {
        vcpu.context.debug.status |= step | met;
        bounce_trap(vcpu, info, &services.mmu, Vector::DEBUG.0, 0, 0)?;
    }
    Ok(Carried::Out)
}

/// The value that `wrmsr` and `xsetbv` write.
pub fn edx_eax(registers: &Registers) -> u64 {
    registers.rdx << 32 | registers.rax & 0xffff_ffff
}
