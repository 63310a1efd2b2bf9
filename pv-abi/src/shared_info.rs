//! The page that a domain shares with the hypervisor (`struct shared_info`, `struct vcpu_info`, `xen.h`).
//!
//! Both sides write it at once: use it as offsets for atomic accesses, never as a reference.

use crate::time::VcpuTimeInfo;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// vCPUs whose [`VcpuInfo`] lies in [`SharedInfo`] (`XEN_LEGACY_MAX_VCPUS`).
pub const LEGACY_MAX_VCPUS: usize = 32;

/// Per-vCPU data (`struct vcpu_info` with its `struct arch_vcpu_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Set by the hypervisor when an event is pending; cleared by the guest before it looks.
    pub evtchn_upcall_pending: u8,
    /// Set by the guest to hold upcalls off.
    pub evtchn_upcall_mask: u8,
    /// Padding; it has no meaning.
    pub padding: [u8; 6],
    /// Which words of [`SharedInfo::evtchn_pending`] to look at.
    pub evtchn_pending_sel: u64,
    /// `arch.cr2`: address of the last page fault.
    pub cr2: u64,
    /// `arch.pad`: padding; it has no meaning.
    pub arch_padding: u64,
    /// What the vCPU computes the time from.
    pub time: VcpuTimeInfo,
}
layout!(VcpuInfo: 64, evtchn_upcall_pending @ 0, evtchn_upcall_mask @ 1, evtchn_pending_sel @ 8, cr2 @ 16, time @ 32);

/// The shared page (`struct shared_info`); the rest of the page is not used.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// The first vCPUs' data.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
    /// One bit a port: an event is pending.
    pub evtchn_pending: [u64; 64],
    /// One bit a port: upcalls for it are held off.
    pub evtchn_mask: [u64; 64],
    /// Version of the wall clock: the same protocol as [`VcpuTimeInfo::version`].
    pub wc_version: u32,
    /// Unix time at system time 0: seconds, low half.
    pub wc_sec: u32,
    /// Nanoseconds of the wall clock, at system time 0.
    pub wc_nsec: u32,
    /// Seconds of the wall clock at system time 0, the high 32 bits.
    pub wc_sec_hi: u32,
    /// `arch`: written by the guest for tools that read its p2m.
    pub arch: ArchSharedInfo,
}
layout!(SharedInfo: 3136,
    vcpu_info @ 0, evtchn_pending @ 2048, evtchn_mask @ 2560, wc_version @ 3072, wc_sec @ 3076, wc_nsec @ 3080,
    wc_sec_hi @ 3084, arch @ 3088);

/// Where tools find a domain's p2m (`struct arch_shared_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchSharedInfo {
    /// Valid entries of the p2m.
    pub max_pfn: u64,
    /// Root of the three-level p2m tree.
    pub pfn_to_mfn_frame_list_list: u64,
    /// Why an NMI came: bits of `XEN_NMIREASON_*`.
    pub nmi_reason: u64,
    /// Address space in which `p2m_vaddr` holds.
    pub p2m_cr3: u64,
    /// Virtual address of the linear p2m.
    pub p2m_vaddr: u64,
    /// Odd while the p2m's mapping changes.
    pub p2m_generation: u64,
}
layout!(ArchSharedInfo: 48, max_pfn @ 0, p2m_generation @ 40);
