//! `syscall` and `sysenter`: instructions by which a CPU gets from CPL3 to CPL0 without the IDT, and the MSRs that say
//! where each lands. All other ways to CPL0 are listed in `docs/security.md`, "Ways to CPL0".
//!
//! An MSR of these that is left out is 0 and lands the guest at address 0 with CPL0, which it may have mapped. A start-up
//! probe tries each instruction ([`super::probe::Probe::entries`]).
//!
//! On software KVM `syscall` of 64-bit code stays at CPL3, whatever EFER says; that of 32-bit code is emulated and would
//! land at the lower half of CSTAR, at CPL0. So EFER.SCE is cleared there, and it is #UD.

use super::super::context::Exit;
use super::area::LSTAR;
use super::descriptors::STUB_CS;
use super::stub::{GATE_STRIDE, PORT_SYSCALL};
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64};

const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const STAR: u32 = 0xc000_0081;
const LSTAR_MSR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;

/// Lets `syscall` enter CPL0 (EFER.SCE).
pub const EFER_SCE: u64 = 1;

/// Flags that `syscall` clears: TF IF DF IOPL NT AC.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;

/// Every MSR of these instructions, and its value on every pcpu.
pub const MSRS: [(u32, u64); 7] = [
    (STAR, (STUB_CS as u64) << 32),
    (LSTAR_MSR, Syscall::Bits64.address()),
    // Used by AMD's CPUs; on Intel's, `syscall` in 32-bit code is #UD.
    (CSTAR, Syscall::Bits32.address()),
    (FMASK, CLEARED_FLAGS),
    // Without a code segment `sysenter` is #GP on Intel's CPUs; on AMD's it is #UD in long mode.
    (IA32_SYSENTER_CS, 0),
    (IA32_SYSENTER_ESP, 0),
    (IA32_SYSENTER_EIP, 0),
];

/// `syscall`, by the kind of code that executed it: each kind has a gate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syscall {
    /// 64-bit code.
    Bits64,
    /// 32-bit code (compatibility mode).
    Bits32,
}

impl Syscall {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bits64, Self::Bits32];

    const fn number(self) -> u16 {
        match self {
            Self::Bits64 => 0,
            Self::Bits32 => 1,
        }
    }

    /// Where it lands.
    pub const fn address(self) -> u64 {
        LSTAR + self.number() as u64 * GATE_STRIDE
    }

    /// The port at which its gate reports.
    pub const fn port(self) -> u16 {
        PORT_SYSCALL + self.number()
    }

    /// The one that lands at `address`.
    pub fn landing_at(address: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|syscall| syscall.address() == address)
    }

    /// The one whose gate reports at `port`.
    pub fn reporting_at(port: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|syscall| syscall.port() == port)
    }

    /// Code selector of the guest behind it. The instruction does not save the one that the guest had.
    pub const fn code_selector(self) -> u16 {
        match self {
            Self::Bits64 => FLAT_RING3_CS64,
            Self::Bits32 => FLAT_RING3_CS32,
        }
    }

    /// As the layers above see it.
    pub const fn exit(self) -> Exit {
        match self {
            Self::Bits64 => Exit::Syscall,
            Self::Bits32 => Exit::Syscall32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stub;
    use super::*;

    fn msr(index: u32) -> u64 {
        MSRS.into_iter().find(|(other, _)| *other == index).expect("an MSR that is set").1
    }

    /// Each of the two `syscall`s lands on the `out` of a gate of its own.
    #[test]
    fn syscall_lands_on_a_gate_whatever_code_executes_it() {
        let code = stub::gate_code();
        for (index, syscall) in [(LSTAR_MSR, Syscall::Bits64), (CSTAR, Syscall::Bits32)] {
            assert_eq!(Syscall::landing_at(msr(index)), Some(syscall));
            assert_eq!(Syscall::reporting_at(syscall.port()), Some(syscall));
            let at = (msr(index) - LSTAR) as usize;
            assert_eq!(code[at..at + 2], [0xe6, syscall.port() as u8], "out port, al");
        }
        assert_ne!(Syscall::Bits64.port(), Syscall::Bits32.port());
        assert_eq!(Syscall::landing_at(LSTAR + 1), None);
        assert_eq!(Syscall::reporting_at(stub::PORT_DONE), None);
    }

    #[test]
    fn syscall_enters_with_the_stubs_segments_and_without_the_guests_flags() {
        assert_eq!(msr(STAR), u64::from(STUB_CS) << 32);
        assert_eq!(msr(FMASK), 0x4_7700);
    }

    /// Intel's CPUs raise #GP then, on both kinds of code. No AMD CPU can show it.
    #[test]
    fn sysenter_has_no_code_segment_to_enter() {
        assert_eq!([IA32_SYSENTER_CS, IA32_SYSENTER_ESP, IA32_SYSENTER_EIP].map(msr), [0; 3]);
    }
}
