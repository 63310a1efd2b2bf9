//! Model-specific registers. One that is not in the table is #GP, to read and to write.

use super::step::{Effect, Trapped, edx_eax};
use crate::machine::Registers;
use pv_abi::VcpuId;
use pv_abi::address::is_canonical;

/// What is behind a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// IA32_FS_BASE: FS base.
    FsBase,
    /// GS base of the mode that runs.
    GsBase,
    /// GS base of the mode that does not.
    KernelGsBase,
    /// The local APIC's place, which only tells the first vCPU from others.
    ApicBase,
    /// This value, which may be written back.
    Fixed(u64),
    /// This value, which may not be written.
    ReadOnly(u64),
    /// This value; 0 may be written, and is ignored.
    Clearable(u64),
}

/// Whose processors have a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Any,
    Intel,
    /// AMD, and Hygon, for which the same rows hold.
    Amd,
}

/// The table of registers.
const TABLE: &[(u32, Vendor, Kind)] = &[
    (0x17, Vendor::Intel, Kind::ReadOnly(0)), // IA32_PLATFORM_ID
    (0x1b, Vendor::Any, Kind::ApicBase),
    // The revision of the microcode. On Intel's processors 0 is written before it is read.
    (0x8b, Vendor::Intel, Kind::Clearable(1 << 32)),
    (0x8b, Vendor::Amd, Kind::ReadOnly(1)),
    (0x179, Vendor::Any, Kind::ReadOnly(0)), // IA32_MCG_CAP: no bank of machine checks
    (0x17a, Vendor::Any, Kind::Clearable(0)), // IA32_MCG_STATUS
    // IA32_MISC_ENABLE: fast strings; no branch traces (BTS), no precise events (PEBS).
    (0x1a0, Vendor::Intel, Kind::Fixed(1 | 1 << 11 | 1 << 12)),
    (0x1d9, Vendor::Any, Kind::Clearable(0)), // IA32_DEBUGCTL: no branch is recorded, none is stepped to
    (0x277, Vendor::Any, Kind::Fixed(0x0000_0501_0007_0406)), // IA32_PAT, as on Xen
    (0xc000_0080, Vendor::Any, Kind::Fixed(0xd01)), // IA32_EFER: SCE LME LMA NXE
    (0xc000_0100, Vendor::Any, Kind::FsBase),
    (0xc000_0101, Vendor::Any, Kind::GsBase),
    (0xc000_0102, Vendor::Any, Kind::KernelGsBase),
    (0xc001_0015, Vendor::Amd, Kind::Fixed(1 << 24)), // HWCR: the TSC counts at the rate of P0
    (0xc001_1029, Vendor::Amd, Kind::Fixed(1 << 1)),  // DE_CFG: LFENCE serialises
];

/// The row of the register that ECX names.
fn find(trapped: &Trapped<'_>, registers: &Registers) -> Option<Kind> {
    let number = registers.rcx as u32;
    let rows = TABLE.iter().filter(|(row, ..)| *row == number);
    rows.copied().find(|(_, vendor, _)| vendor.is_here(trapped)).map(|(.., kind)| kind)
}

impl Vendor {
    fn is_here(self, trapped: &Trapped<'_>) -> bool {
        let name = || trapped.cpuid(0, 0)[1].to_le_bytes();
        match self {
            Self::Any => true,
            Self::Intel => name() == *b"Genu",
            Self::Amd => matches!(&name(), b"Auth" | b"Hygo"),
        }
    }
}

/// `rdmsr`.
pub fn read(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let vcpu = trapped.vcpu;
    let value = match find(trapped, registers)? {
        Kind::FsBase => vcpu.context.fs_base,
        Kind::GsBase => vcpu.context.gs_base,
        Kind::KernelGsBase => vcpu.other_gs_base,
        Kind::ApicBase => 0xfee0_0800 | if vcpu.id == VcpuId(0) { 1 << 8 } else { 0 },
        Kind::Fixed(value) | Kind::ReadOnly(value) | Kind::Clearable(value) => value,
    };
    (registers.rax, registers.rdx) = (value & 0xffff_ffff, value >> 32);
    Some(Effect::Registers)
}

/// `wrmsr`: EDX and EAX go to the MSR that ECX names. None where the guest has no such MSR, or may not write that.
pub fn write(trapped: &Trapped<'_>, registers: &mut Registers) -> Option<Effect> {
    let value = edx_eax(registers);
    let kind = find(trapped, registers)?;
    match kind {
        Kind::FsBase | Kind::GsBase | Kind::KernelGsBase if !is_canonical(value) => None,
        Kind::FsBase => Some(Effect::FsBase(value)),
        Kind::GsBase => Some(Effect::GsBase(value)),
        Kind::KernelGsBase => Some(Effect::KernelGsBase(value)),
        Kind::Fixed(fixed) if value == fixed => Some(Effect::Registers),
        Kind::Clearable(_) if value == 0 => Some(Effect::Registers),
        Kind::Fixed(_) | Kind::Clearable(_) | Kind::ReadOnly(_) | Kind::ApicBase => None,
    }
}
