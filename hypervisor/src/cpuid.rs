//! What `cpuid` says to a guest: the machine's policy, and on top of it Xen's leaves and the extension's.

use pv_abi::cpuid::{FIRST_LEAF, SIGNATURE};
use pv_abi::extension::{self, ExtensionFeatures};
use std::fmt::Debug;

/// The version of Xen's ABI that is spoken: 4.17.
pub const XEN_VERSION: u32 = 4 << 16 | 17;
/// Xen's last leaf that is filled in.
const LAST_LEAF: u32 = FIRST_LEAF + 2;
/// Leaf 2, ECX: `MMU_PT_UPDATE_PRESERVE_AD` exists (`XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD`).
const FEATURE_PRESERVE_AD: u32 = 1;

/// The leaves that describe the processor, with everything hidden that a PV guest must not see.
pub trait CpuidPolicy: Debug + Send + Sync {
    /// EAX, EBX, ECX, EDX of a leaf.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
}

const fn leaf(eax: u32, [ebx, ecx, edx]: [u32; 3]) -> [u32; 4] {
    [eax, ebx, ecx, edx]
}

/// The hypervisor's own leaves, whatever the processor is. The machine is made with them, too, so that `cpuid`
/// without prefix says the same.
pub const HYPERVISOR_LEAVES: [(u32, [u32; 4]); 4] = [
    (FIRST_LEAF, leaf(LAST_LEAF, SIGNATURE)),
    (FIRST_LEAF + 1, leaf(XEN_VERSION, [0; 3])),
    (LAST_LEAF, leaf(0, [0, FEATURE_PRESERVE_AD, 0])),
    (extension::CPUID_LEAF, leaf(ExtensionFeatures::all().bits(), extension::SIGNATURE)),
];

/// The range that belongs to hypervisors.
fn is_hypervisor_leaf(leaf: u32) -> bool {
    leaf >> 16 == FIRST_LEAF >> 16
}

/// What a guest gets.
pub fn cpuid(policy: &dyn CpuidPolicy, leaf: u32, subleaf: u32) -> [u32; 4] {
    match HYPERVISOR_LEAVES.iter().find(|(own, _)| *own == leaf) {
        Some((_, registers)) => *registers,
        None if is_hypervisor_leaf(leaf) => [0; 4],
        None => policy.cpuid(leaf, subleaf),
    }
}

/// A processor of which nothing is known: for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCpuid;

impl CpuidPolicy for NoCpuid {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        [leaf, subleaf, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hypervisors_leaves_are_its_own_and_all_others_the_policys() {
        let [max, ebx, ecx, edx] = cpuid(&NoCpuid, FIRST_LEAF, 0);
        let name: Vec<u8> = [ebx, ecx, edx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!((name.as_slice(), max), (b"XenVMMXenVMM".as_slice(), LAST_LEAF));
        assert_eq!(cpuid(&NoCpuid, extension::CPUID_LEAF, 0)[1..], extension::SIGNATURE);
        assert_eq!(cpuid(&NoCpuid, 0x4000_0003, 0), [0; 4]);
        assert_eq!(cpuid(&NoCpuid, 7, 2), [7, 2, 0, 0]);
    }
}
