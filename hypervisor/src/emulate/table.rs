//! The table of instructions that are carried out for a guest. What is not in it stays the exception that it raised.

use super::step::{Effect, Trapped};
use super::{control, entry, msr, port};
use crate::machine::Registers;
use crate::vcpu::{Mode, Vcpu};
use iced_x86::Code::{self, *};

/// For whom an instruction is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The kernel and its programs.
    Anybody,
    /// Whoever has the I/O privilege ([`Vcpu::has_io_privilege`]).
    IoPrivilege,
    /// The kernel only: it is refused to programs.
    Kernel,
}

impl Rule {
    /// Whether it is carried out for `vcpu`, as it is now.
    pub fn permits(self, vcpu: &Vcpu) -> bool {
        match self {
            Self::Anybody => true,
            Self::IoPrivilege => vcpu.has_io_privilege(),
            Self::Kernel => vcpu.mode == Mode::Kernel,
        }
    }
}

/// What an instruction does: pure, from what trapped to its effect, and to what it leaves in the general registers.
/// None where it is the guest's own fault; then the registers do not matter. RIP is left alone.
pub type Step = fn(&Trapped<'_>, &mut Registers) -> Option<Effect>;

/// One or several instructions that trap and are carried out in the same way.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The instruction, in the decoder's words.
    pub codes: &'static [Code],
    /// Whether programs may execute them, too.
    pub rule: Rule,
    /// The function that carries them out.
    pub step: Step,
}

const fn row(codes: &'static [Code], rule: Rule, step: Step) -> Row {
    Row { codes, rule, step }
}

/// All instructions that are carried out where they raise #UD or #GP, and for whom.
pub static TABLE: &[Row] = &[
    row(&[Int_imm8], Rule::Anybody, entry::software_interrupt),
    row(&[Syscall], Rule::Anybody, entry::syscall),
    row(&[Sysenter], Rule::Anybody, entry::sysenter),
    row(&[Cpuid], Rule::Anybody, entry::cpuid),
    // As on Xen, interrupts are not masked by them: the upcall mask is.
    row(&[Cli, Sti], Rule::IoPrivilege, nothing),
    row(&[In_AL_imm8, In_AX_imm8, In_EAX_imm8], Rule::IoPrivilege, port::input),
    row(&[In_AL_DX, In_AX_DX, In_EAX_DX], Rule::IoPrivilege, port::input),
    row(&[Out_imm8_AL, Out_imm8_AX, Out_imm8_EAX], Rule::IoPrivilege, port::output),
    row(&[Out_DX_AL, Out_DX_AX, Out_DX_EAX], Rule::IoPrivilege, port::output),
    row(&[Insb_m8_DX, Insw_m16_DX, Insd_m32_DX], Rule::IoPrivilege, port::string_input),
    row(&[Outsb_DX_m8, Outsw_DX_m16, Outsd_DX_m32], Rule::IoPrivilege, port::string_output),
    row(&[Mov_r64_cr], Rule::Kernel, control::read_control),
    row(&[Mov_cr_r64], Rule::Kernel, control::write_control),
    row(&[Mov_r64_dr], Rule::Kernel, control::read_debug),
    row(&[Mov_dr_r64], Rule::Kernel, control::write_debug),
    row(&[Xsetbv], Rule::Kernel, control::write_xcr),
    row(&[Clts], Rule::Kernel, control::clear_task_switched),
    // No domain has a device that sees what is in a cache.
    row(&[Wbinvd, Wbnoinvd, Invd], Rule::Kernel, nothing),
    row(&[Rdmsr], Rule::Kernel, msr::read),
    row(&[Wrmsr], Rule::Kernel, msr::write),
];

/// The row of an instruction.
pub fn find(code: Code) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.codes.contains(&code))
}

/// Nothing is behind the instruction.
#[allow(clippy::unnecessary_wraps)] // it is a `Step`
fn nothing(_: &Trapped<'_>, _: &mut Registers) -> Option<Effect> {
    Some(Effect::Registers)
}
