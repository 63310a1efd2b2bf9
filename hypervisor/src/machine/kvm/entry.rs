//! `syscall` and `sysenter`: instructions by which a CPU can get from CPL3 to CPL0 without the IDT. Here they do not: the
//! only way is an exception. `docs/security.md`, "Ways to CPL0", lists all that there are.
//!
//! EFER.SCE is off, so `syscall` is #UD, and the layers above carry it out. It has to be off for 32-bit code: KVM emulates
//! that on some hosts, and on all others when it looks at an instruction again that raised #UD, which may be another one
//! by then. The emulated instruction cuts CSTAR to 32 bits, and lands at an address that is a guest's, with CPL0.
//!
//! On software KVM `syscall` of 64-bit code lands at LSTAR all the same, but stays at CPL3. There a page has a gate: an
//! instruction that faults at CPL3, which [`super::pcpu`] takes for the call.
//!
//! No MSR of these is left out: one that is 0 would be a way to address 0. A start-up probe tries each instruction
//! ([`super::probe::Probe::entries`]).

use super::area::LSTAR;
use super::descriptors::STUB_CS;

const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const STAR: u32 = 0xc000_0081;
const LSTAR_MSR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;

/// Flags that `syscall` clears: TF IF DF IOPL NT AC.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;

/// EFER of every pcpu: LME LMA NXE, and not SCE.
pub const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;

/// Every MSR of these instructions, and its value on every pcpu.
pub const MSRS: [(u32, u64); 7] = [
    (STAR, (STUB_CS as u64) << 32),
    (LSTAR_MSR, LSTAR),
    (CSTAR, LSTAR),
    (FMASK, CLEARED_FLAGS),
    // Without a code segment `sysenter` is #GP on Intel's CPUs; on AMD's it is #UD in long mode.
    (IA32_SYSENTER_CS, 0),
    (IA32_SYSENTER_ESP, 0),
    (IA32_SYSENTER_EIP, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn msr(index: u32) -> u64 {
        MSRS.into_iter().find(|(other, _)| *other == index).expect("an MSR that is set").1
    }

    /// With SCE, KVM's emulation of it lands at the lower half of CSTAR, which is a guest's.
    #[test]
    fn syscall_enters_cpl0_on_no_cpu() {
        const SCE: u64 = 1;
        assert_eq!(EFER & SCE, 0);
        assert_eq!([LSTAR_MSR, CSTAR].map(msr), [LSTAR; 2]);
    }

    #[test]
    fn syscall_keeps_none_of_the_guests_segments_and_flags() {
        assert_eq!(msr(STAR), u64::from(STUB_CS) << 32);
        assert_eq!(msr(FMASK), 0x4_7700);
    }

    /// Intel's CPUs raise #GP then, on both kinds of code. No AMD CPU can show it.
    #[test]
    fn sysenter_has_no_code_segment_to_enter() {
        assert_eq!([IA32_SYSENTER_CS, IA32_SYSENTER_ESP, IA32_SYSENTER_EIP].map(msr), [0; 3]);
    }
}
