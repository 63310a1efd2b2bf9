//! How a PV guest asks for CPUID leaves, and Xen's own leaves (`arch-x86/cpuid.h`).

/// Put before `cpuid`, makes the hypervisor answer instead of the CPU (`XEN_EMULATE_PREFIX`): `ud2; .ascii "xen"`.
pub const EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, b'x', b'e', b'n'];

/// First of Xen's leaves; EAX is the last, EBX ECX EDX the signature (`XEN_CPUID_FIRST_LEAF`).
pub const FIRST_LEAF: u32 = 0x4000_0000;
/// `XenVMMXenVMM` in EBX, ECX, EDX
/// (`XEN_CPUID_SIGNATURE_EBX`, `XEN_CPUID_SIGNATURE_ECX`, `XEN_CPUID_SIGNATURE_EDX`).
pub const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
