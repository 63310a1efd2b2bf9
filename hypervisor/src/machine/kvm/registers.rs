//! General registers, in our words and in KVM's.

use super::super::Registers;
use kvm_bindings::kvm_regs;

/// Both directions from one list of names.
macro_rules! same_names {
    ($($name:ident)*) => {
        /// For KVM.
        pub fn to_kvm(registers: &Registers) -> kvm_regs {
            kvm_regs { $($name: registers.$name),* }
        }

        /// From KVM.
        pub fn from_kvm(registers: &kvm_regs) -> Registers {
            Registers { $($name: registers.$name),* }
        }
    };
}

same_names!(rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);
