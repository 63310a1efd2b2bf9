//! Single instructions, none of them sensitive: `rdtsc`, `cpuid` behind the prefix that makes the hypervisor
//! answer, the store that rings a doorbell.

use core::arch::{asm, x86_64::_rdtsc};

use pv_abi::extension::{CPUID_LEAF, Doorbell, ExtensionFeatures, SIGNATURE};

/// The time stamp counter.
pub fn time_stamp_counter() -> u64 {
    // SAFETY: reads a counter.
    unsafe { _rdtsc() }
}

/// The leaf's EAX, EBX, ECX, EDX, as the hypervisor wants this domain to see them.
pub fn cpuid(leaf: u32) -> [u32; 4] {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: changes nothing but its outputs. RBX is LLVM's own and is put back.
    unsafe {
        asm!(
            "mov {saved}, rbx",
            // ud2, "xen", cpuid: see pv_abi::cpuid::EMULATE_PREFIX.
            ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2",
            "xchg {saved}, rbx",
            saved = out(reg) ebx,
            inout("eax") leaf => eax,
            inout("ecx") 0 => ecx,
            out("edx") edx,
            options(nostack),
        );
    }
    [eax, ebx as u32, ecx, edx]
}

/// What the hypervisor offers beyond Xen's ABI.
pub fn extensions() -> ExtensionFeatures {
    let [features, signature @ ..] = cpuid(CPUID_LEAF);
    if signature == SIGNATURE {
        ExtensionFeatures::from_bits_retain(features)
    } else {
        ExtensionFeatures::empty()
    }
}

/// Rings a doorbell; what was written before is seen by whoever hears it.
///
/// # Safety
///
/// The hypervisor must have given it: elsewhere this is a store like any other.
pub unsafe fn ring(doorbell: &Doorbell) {
    // SAFETY: the caller's. There is no memory behind the address.
    unsafe {
        asm!("mov [{}], {:e}", in(reg) doorbell.address, in(reg) doorbell.value, options(nostack, preserves_flags));
    }
}

/// Copies `length` bytes that do not overlap. The compiler knows nothing of what is read or written: it may change
/// meanwhile.
///
/// # Safety
///
/// Both sides must be mapped, and what is written must not be memory that Rust owns otherwise.
pub unsafe fn copy(dest: u64, source: u64, length: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "rep movsb",
            inout("rdi") dest => _,
            inout("rsi") source => _,
            inout("rcx") length => _,
            options(nostack, preserves_flags),
        );
    }
}

/// The frame pointer, for a back trace.
pub fn frame_pointer() -> u64 {
    let rbp;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    rbp
}
