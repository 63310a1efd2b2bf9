//! General and debug registers, in our words and in KVM's.

use super::super::{DebugRegisters, Registers};
use kvm_bindings::{kvm_debugregs, kvm_regs};

/// Both directions from one list of names.
macro_rules! same_names {
    ($($name:ident)*) => {
        /// The general registers, RIP and RFLAGS in KVM's structure.
        pub fn to_kvm(registers: &Registers) -> kvm_regs {
            kvm_regs { $($name: registers.$name),* }
        }

        /// The general registers, RIP and RFLAGS from KVM's structure.
        pub fn from_kvm(registers: &kvm_regs) -> Registers {
            Registers { $($name: registers.$name),* }
        }
    };
}

same_names!(rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);

/// Debug registers, for KVM.
pub fn debug_to_kvm(registers: &DebugRegisters) -> kvm_debugregs {
    let DebugRegisters { addresses: db, status: dr6, control: dr7 } = *registers;
    kvm_debugregs { db, dr6, dr7, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On no host of the tests a breakpoint at CPL3 fires, which would show it.
    #[test]
    fn all_debug_registers_are_loaded() {
        let registers = debug_to_kvm(&DebugRegisters { addresses: [1, 2, 3, 4], status: 5, control: 6 });
        assert_eq!((registers.db, registers.dr6, registers.dr7, registers.flags), ([1, 2, 3, 4], 5, 6, 0));
    }
}
