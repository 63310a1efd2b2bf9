//! What a PV kernel finds at its start (`struct start_info`, `xen.h`).

use crate::address::Mfn;
use crate::ids::EventPort;
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes that the command line may have, its terminating zero included (`MAX_GUEST_CMDLINE`).
pub const MAX_GUEST_CMDLINE: usize = 1024;

/// What [`StartInfo::magic`] holds on x86-64, zero-padded.
pub const MAGIC: &str = "xen-3.0-x86_64";

bitflags! {
    /// Flags of [`StartInfo`] (`SIF_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct StartFlags: u32 {
        /// The domain is privileged.
        const PRIVILEGED = 1 << 0;
        /// The domain is the control domain.
        const INITDOMAIN = 1 << 1;
        /// The module is a multiboot module list.
        const MULTIBOOT_MOD = 1 << 2;
        /// `mod_start` is a pfn, and the module is not mapped.
        const MOD_START_PFN = 1 << 3;
    }
}

/// The structure whose address is in RSI when the kernel starts (`struct start_info`).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// `xen-<version>-<platform>`, zero-padded.
    pub magic: [u8; 32],
    /// How many pages the domain has.
    pub nr_pages: u64,
    /// Machine address of the shared info page.
    pub shared_info: u64,
    /// What the domain is: bits of [`StartFlags`].
    pub flags: u32,
    /// Padding of the C structure.
    pub padding0: u32,
    /// Frame of the xenstore ring; 0 where there is none.
    pub store_mfn: Mfn,
    /// Port of the xenstore ring.
    pub store_evtchn: EventPort,
    /// Padding of the C structure.
    pub padding1: u32,
    /// `console.domU.mfn`: frame of the console ring; 0 where there is none. For the control domain these three
    /// fields are `console.dom0` instead.
    pub console_mfn: Mfn,
    /// `console.domU.evtchn`: port of the console ring.
    pub console_evtchn: EventPort,
    /// Padding of the C union.
    pub padding2: u32,
    /// Virtual address of the root page table.
    pub pt_base: u64,
    /// Frames that the initial page tables take.
    pub nr_pt_frames: u64,
    /// Virtual address of the p2m list: one mfn a pfn.
    pub mfn_list: u64,
    /// Virtual address (or pfn, by [`StartFlags::MOD_START_PFN`]) of the ramdisk; 0 where there is none.
    pub mod_start: u64,
    /// Bytes of the ramdisk; 0 where there is none.
    pub mod_len: u64,
    /// The command line, zero-terminated.
    pub cmd_line: [u8; MAX_GUEST_CMDLINE],
    /// First pfn of the p2m list's own frames.
    pub first_p2m_pfn: u64,
    /// Frames that the p2m list takes.
    pub nr_p2m_frames: u64,
}
layout!(StartInfo: 1168,
    magic @ 0, nr_pages @ 32, shared_info @ 40, flags @ 48, store_mfn @ 56, store_evtchn @ 64,
    console_mfn @ 72, console_evtchn @ 80, pt_base @ 88, nr_pt_frames @ 96, mfn_list @ 104, mod_start @ 112,
    mod_len @ 120, cmd_line @ 128, first_p2m_pfn @ 1152, nr_p2m_frames @ 1160);
