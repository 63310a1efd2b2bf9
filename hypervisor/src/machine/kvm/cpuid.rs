//! What CPUID tells: one policy for the machine, since some hosts answer CPL3 by themselves.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use pv_abi::cpuid::FIRST_LEAF;

// Leaf 1: what a PV guest must not find.
const LEAF1_ECX_HIDDEN: u32 = 1 << 3 // MONITOR
    | 1 << 5 // VMX
    | 1 << 17 // PCID
    | 1 << 21 // x2APIC
    | 1 << 24; // TSC deadline
const LEAF1_EDX_HIDDEN: u32 = 1 << 1 // VME
    | 1 << 3 // PSE
    | 1 << 12 // MTRR
    | 1 << 13 // PGE
    | 1 << 17; // PSE36
const LEAF7_EBX_HIDDEN: u32 = 1 << 7 // SMEP
    | 1 << 10 // INVPCID
    | 1 << 20; // SMAP
const LEAF7_ECX_HIDDEN: u32 = 1 << 2 // UMIP
    | 1 << 3 // PKU
    | 1 << 4 // OSPKE
    | 1 << 16; // LA57
// AMX state does not fit into the image that a vCPU's state is kept in.
const LEAF7_EDX_HIDDEN: u32 = 1 << 22 | 1 << 24 | 1 << 25;
const LEAFD1_EAX_HIDDEN: u32 = 1 << 3; // XSAVES
const EXT1_ECX_HIDDEN: u32 = 1 << 2; // SVM
const EXT1_EDX_HIDDEN: u32 = 1 << 1 | 1 << 3 | 1 << 12 | 1 << 13 | 1 << 17 | 1 << 26; // and 1 GiB pages

/// The machine's CPUID leaves.
#[derive(Clone, Debug)]
pub struct CpuidPolicy {
    entries: Vec<kvm_cpuid_entry2>,
}

impl CpuidPolicy {
    /// What the host supports, without what a PV guest must not use, and `own` leaves in place of KVM's.
    pub fn new(supported: &CpuId, own: &[(u32, [u32; 4])]) -> Self {
        let host = supported.as_slice().iter().copied();
        let replaced = |entry: &kvm_cpuid_entry2| own.iter().any(|(function, _)| *function == entry.function);
        let visible = host.filter(|entry| entry.function >> 16 != FIRST_LEAF >> 16 && !replaced(entry));
        let visible = visible.map(hide);
        let own = own.iter().map(|&(function, [eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        });
        let entries = visible.chain(own).collect();
        Self { entries }
    }

    /// EAX, EBX, ECX and EDX of a leaf; zeros where there is none.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.entries
            .iter()
            .find(|entry| {
                entry.function == leaf
                    && (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || entry.index == subleaf)
            })
            .map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    /// For KVM_SET_CPUID2.
    pub fn to_kvm(&self) -> Option<CpuId> {
        CpuId::from_entries(&self.entries).ok()
    }

    /// The extended state that guests may use: x87, SSE, AVX, AVX-512.
    pub fn xcr0(&self) -> u64 {
        let [eax, ..] = self.cpuid(0xd, 0);
        u64::from(eax & 0xe7)
    }

    /// Bits of a physical address; the bits of an entry above them are reserved.
    pub fn physical_address_bits(&self) -> u32 {
        self.cpuid(0x8000_0008, 0)[0] & 0xff
    }

    /// Whether the CPU has XSAVE, and CR4.OSXSAVE can be set.
    pub fn has_xsave(&self) -> bool {
        self.cpuid(1, 0)[2] & 1 << 26 != 0
    }
}

fn hide(mut entry: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ecx &= !LEAF1_ECX_HIDDEN;
            entry.edx &= !LEAF1_EDX_HIDDEN;
        }
        (7, 0) => {
            entry.ebx &= !LEAF7_EBX_HIDDEN;
            entry.ecx &= !LEAF7_ECX_HIDDEN;
            entry.edx &= !LEAF7_EDX_HIDDEN;
        }
        (0xd, 0) => entry.eax &= 0xe7,
        (0xd, 1) => entry.eax &= !LEAFD1_EAX_HIDDEN,
        (0x8000_0001, _) => {
            entry.ecx &= !EXT1_ECX_HIDDEN;
            entry.edx &= !EXT1_EDX_HIDDEN;
        }
        _ => {}
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The features of a leaf, from a host that has all, that a guest does not find: EAX, EBX, ECX, EDX.
    fn hidden(function: u32, index: u32) -> [Vec<u32>; 4] {
        let flags = if index == 0 { 0 } else { KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
        let all = u32::MAX;
        let entry = kvm_cpuid_entry2 {
            function,
            index,
            flags,
            eax: all,
            ebx: all,
            ecx: all,
            edx: all,
            ..Default::default()
        };
        let policy = CpuidPolicy::new(&CpuId::from_entries(&[entry]).unwrap(), &[]);
        policy.cpuid(function, index).map(|found| (0..32).filter(|bit| found & 1 << bit == 0).collect())
    }

    #[test]
    fn what_a_pv_guest_must_not_use_is_hidden_and_nothing_else() {
        let none = Vec::<u32>::new;
        assert_eq!(hidden(1, 0), [none(), none(), vec![3, 5, 17, 21, 24], vec![1, 3, 12, 13, 17]]);
        assert_eq!(hidden(7, 0), [none(), vec![7, 10, 20], vec![2, 3, 4, 16], vec![22, 24, 25]]);
        assert_eq!(hidden(7, 1), [none(), none(), none(), none()]);
        let beyond_avx_512 = [3, 4].into_iter().chain(8..32).collect();
        assert_eq!(hidden(0xd, 0), [beyond_avx_512, none(), none(), none()]);
        assert_eq!(hidden(0xd, 1), [vec![3], none(), none(), none()]);
        assert_eq!(hidden(0x8000_0001, 0), [none(), none(), vec![2], vec![1, 3, 12, 13, 17, 26]]);
        let all = || (0..32).collect::<Vec<u32>>();
        assert_eq!(hidden(FIRST_LEAF, 0), [all(), all(), all(), all()], "KVM's own");
    }
}
