//! Xen's leaves of `cpuid`, and the extension's. All others are the machine's ([`crate::machine::cpuid`]).

use crate::machine::cpuid::{Asker, Leaf, MachineCpuid, Registers};
use pv_abi::cpuid::{FIRST_LEAF, SIGNATURE};
use pv_abi::extension::{self, ExtensionFeatures};
use pv_abi::time::multiplier_for;
use std::fmt::Debug;

/// Answers the instruction `cpuid` for a guest.
pub trait CpuidPolicy: Debug {
    /// EAX, EBX, ECX, EDX of a leaf.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers;
}

/// What one vCPU is answered.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    machine: &'a MachineCpuid,
    asker: Asker,
}

impl<'a> Answers<'a> {
    /// Of the machine, to the vCPU in this asker.
    pub fn new(machine: &'a MachineCpuid, asker: Asker) -> Self {
        Self { machine, asker }
    }
}

impl CpuidPolicy for Answers<'_> {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers {
        self.machine.seen_by(self.asker, leaf, subleaf)
    }
}

/// The version of Xen's ABI that is spoken: 4.17.
pub const XEN_VERSION: u32 = 4 << 16 | 17;

const VERSION: u32 = FIRST_LEAF + 1;
const FEATURES: u32 = FIRST_LEAF + 2;
/// The TSC: of a guest (subleaf 0), how it becomes system time (1), of the host (2).
const TIME: u32 = FIRST_LEAF + 3;
/// What is so for PV guests only. The one before it is for HVM guests only.
const PV: u32 = FIRST_LEAF + 5;

/// [`FEATURES`], ECX: `MMU_PT_UPDATE_PRESERVE_AD` exists (`XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD`).
const PRESERVE_AD: u32 = 1;
/// [`TIME`], EAX: the TSC runs on at one rate, whatever the processor does.
const TSC_RELIABLE: u32 = 1 << 1;
/// [`TIME`], EAX: there is `rdtscp`.
const HAS_RDTSCP: u32 = 1 << 2;

const fn leaf(leaf: u32, eax: u32, [ebx, ecx, edx]: [u32; 3]) -> Leaf {
    ((leaf, 0), [eax, ebx, ecx, edx])
}

/// The hypervisor's own leaves on a machine whose TSC has this rate. The TSC is never emulated and has no offset that a
/// guest would have to add.
pub fn hypervisor_leaves(machine: &MachineCpuid, tsc_khz: u32) -> Vec<Leaf> {
    let [.., invariant] = machine.cpuid(0x8000_0007, 0);
    let [.., features] = machine.cpuid(0x8000_0001, 0);
    let reliable = if invariant & 1 << 8 != 0 { TSC_RELIABLE } else { 0 };
    let rdtscp = if features & 1 << 27 != 0 { HAS_RDTSCP } else { 0 };
    let (mul, shift) = multiplier_for(tsc_khz.into());
    vec![
        leaf(FIRST_LEAF, PV, SIGNATURE),
        leaf(VERSION, XEN_VERSION, [0; 3]),
        leaf(FEATURES, 0, [0, PRESERVE_AD, 0]),
        leaf(TIME, reliable | rdtscp, [0, tsc_khz, 0]),
        ((TIME, 1), [0, 0, mul, i32::from(shift) as u32]),
        ((TIME, 2), [tsc_khz, 0, 0, 0]),
        leaf(PV, 0, [machine.physical_address_bits(), 0, 0]),
        leaf(extension::CPUID_LEAF, ExtensionFeatures::all().bits(), extension::SIGNATURE),
    ]
}

/// The policy on a processor of which nothing is known.
#[cfg(any(test, fuzzing))]
pub fn of_no_processor() -> MachineCpuid {
    const TSC_KHZ: u32 = 2_600_000;
    let bare = MachineCpuid::default();
    let leaves = hypervisor_leaves(&bare, TSC_KHZ);
    bare.with(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u32 = 2_600_000;

    fn ask(leaf: u32, subleaf: u32) -> Registers {
        of_no_processor().cpuid(leaf, subleaf)
    }

    #[test]
    fn the_hypervisors_leaves_name_it_and_the_extension() {
        let [max, ebx, ecx, edx] = ask(FIRST_LEAF, 0);
        let name: Vec<u8> = [ebx, ecx, edx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!((name.as_slice(), max), (b"XenVMMXenVMM".as_slice(), PV));
        assert_eq!(ask(extension::CPUID_LEAF, 0)[1..], extension::SIGNATURE);
        assert_eq!([ask(FIRST_LEAF + 4, 0), ask(FIRST_LEAF + 6, 0)], [[0; 4]; 2], "HVM's, and none");
    }

    #[test]
    fn the_time_leaves_turn_ticks_into_nanoseconds() {
        assert_eq!(ask(TIME, 0), [0, 0, KHZ, 0]);
        assert_eq!(ask(TIME, 2), [KHZ, 0, 0, 0]);
        assert_eq!(ask(TIME, 3), [0; 4]);
        let [low, high, mul, shift] = ask(TIME, 1);
        assert_eq!((low, high), (0, 0));
        let second = pv_abi::time::scale(u64::from(KHZ) * 1000, mul, shift as i32 as i8);
        assert!(second.abs_diff(1_000_000_000) < 10, "{second}");
    }
}
