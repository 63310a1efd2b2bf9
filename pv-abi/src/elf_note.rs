//! The ELF notes by which a kernel image says what it is and wants (`elfnote.h`). Their owner name is `Xen`.

/// The owner name of the notes, without its terminating zero.
pub const OWNER: &str = "Xen";

wire_enum! {
    /// A note's type (`XEN_ELFNOTE_*`).
    pub struct NoteType(u32) {
        /// Legacy string with everything in it.
        INFO = 0,
        /// Virtual address of the entry point.
        ENTRY = 1,
        /// Virtual address of the page that the hypervisor fills with hypercall entries.
        HYPERCALL_PAGE = 2,
        /// Virtual address that pfn 0 is mapped at.
        VIRT_BASE = 3,
        /// Subtracted from a segment's physical address before VIRT_BASE is added.
        PADDR_OFFSET = 4,
        /// The interface's version that the kernel was made for: `xen-3.0`.
        XEN_VERSION = 5,
        /// Name of the guest system.
        GUEST_OS = 6,
        /// The version of the operating system, for people.
        GUEST_VERSION = 7,
        /// The kind of loader that the kernel needs. It is always `generic`.
        LOADER = 8,
        /// What a 32-bit kernel wants of PAE. It says nothing for 64-bit kernels.
        PAE_MODE = 9,
        /// Features as names, `|` between them.
        FEATURES = 10,
        /// Whether the loader is to load the symbol table of a BSD kernel.
        BSD_SYMTAB = 11,
        /// The lowest address that a 32-bit kernel leaves to the hypervisor.
        HV_START_LOW = 12,
        /// How a valid L1 entry is recognised.
        L1_MFN_VALID = 13,
        /// The guest can cancel a suspend.
        SUSPEND_CANCEL = 14,
        /// Virtual address that the p2m list is wanted at.
        INIT_P2M = 15,
        /// The guest takes the ramdisk's pfn.
        MOD_START_PFN = 16,
        /// Features as a bit map.
        SUPPORTED_FEATURES = 17,
        /// The physical address at which a PVH guest begins, in 32-bit mode.
        PHYS32_ENTRY = 18,
    }
}
