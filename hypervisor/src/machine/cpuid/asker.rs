//! What depends on the vCPU that asks. Topology: each vCPU is a core with one thread, all are in one package, and the APIC
//! ID is the vCPU's number. And the size of extended state that its XCR0 asks for.

use super::xstate;
use super::{EAX, EBX, ECX, EDX, MachineCpuid, Registers};

const HTT: u32 = 1 << 28;
const CMP_LEGACY: u32 = 1 << 1;
/// Level types in ECX bits 15–8 of leaf 0xb (Intel SDM volume 2, CPUID): threads of a core, and cores.
const THREADS: u32 = 1;
const CORES: u32 = 2;
/// Caches of this level and above are shared by all vCPUs, those below by none.
const SHARED_LEVEL: u32 = 3;

/// The vCPU that executes `cpuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The vCPU's number in its domain, from 0 on.
    pub vcpu: u32,
    /// How many its domain has; at least 1.
    pub of: u32,
    /// Its XCR0; none is all that there is.
    pub xcr0: Option<u64>,
}

impl Asker {
    /// Of whoever is alone: for answers that are the same for all vCPUs.
    pub const ALONE: Self = Self { vcpu: 0, of: 1, xcr0: None };

    /// How many bits of an APIC ID number the cores.
    fn core_bits(self) -> u32 {
        self.of.max(1).next_power_of_two().trailing_zeros()
    }

    /// What `policy` says to this vCPU.
    pub(super) fn lay_over(self, policy: &MachineCpuid, leaf: u32, subleaf: u32) -> Registers {
        let mut registers = policy.cpuid(leaf, subleaf);
        let several = self.of > 1;
        let set = |word: u32, mask: u32, on: bool| if on { word | mask } else { word & !mask };
        match leaf {
            1 => {
                let count = self.of.min(0xff);
                registers[EBX] = registers[EBX] & 0xffff | count << 16 | (self.vcpu & 0xff) << 24;
                registers[EDX] = set(registers[EDX], HTT, several);
            }
            4 if registers[EAX] & 0x1f != 0 => {
                let cores = (1 << self.core_bits().min(6)) - 1;
                registers[EAX] = registers[EAX] & 0x3fff | self.sharers(registers[EAX]) << 14 | cores << 26;
            }
            0xb | 0x1f if policy.has_topology(leaf) => return self.level(subleaf),
            // The size for XCR0 as it is; without XSAVEC there is no compact image.
            0xd if subleaf == 0 && registers[EBX] != 0 => {
                registers[EBX] = xstate::size(&policy.components(self.xcr0));
            }
            0xd if subleaf == 1 && registers[EBX] != 0 => {
                registers[EBX] = xstate::compact_size(&policy.components(self.xcr0));
            }
            0x8000_0001 if policy.is_amd() => {
                registers[ECX] = set(registers[ECX], CMP_LEGACY, several);
            }
            0x8000_0008 => {
                registers[ECX] =
                    if policy.is_amd() { self.core_bits() << 12 | (self.of.max(1) - 1) & 0xff } else { 0 }
            }
            0x8000_001d if registers[EAX] & 0x1f != 0 => {
                registers[EAX] = registers[EAX] & 0x3fff | self.sharers(registers[EAX]) << 14;
            }
            // Core and node; one thread a core, one node.
            0x8000_001e if policy.has_topology(leaf) => return [self.vcpu, self.vcpu & 0xff, 0, 0],
            _ => {}
        }
        registers
    }

    /// How many other IDs share a cache that is described so.
    fn sharers(self, eax: u32) -> u32 {
        let level = eax >> 5 & 7;
        if level >= SHARED_LEVEL { (1 << self.core_bits()) - 1 } else { 0 }
    }

    /// Leaf 0xb, and 0x1f, which is the same where there are no more levels.
    fn level(self, subleaf: u32) -> Registers {
        match subleaf {
            0 => [0, 1, THREADS << 8, self.vcpu],
            1 => [self.core_bits(), self.of, CORES << 8 | 1, self.vcpu],
            none => [0, 0, none & 0xff, self.vcpu],
        }
    }
}

impl MachineCpuid {
    fn has_topology(&self, leaf: u32) -> bool {
        self.guest.contains_key(&(leaf, 0))
    }

    fn is_amd(&self) -> bool {
        let [_, ebx, ecx, edx] = self.cpuid(0, 0);
        let vendor = [ebx, edx, ecx].map(u32::to_le_bytes).concat();
        [b"AuthenticAMD", b"HygonGenuine"].iter().any(|name| vendor == **name)
    }
}
