//! Features of the hypervisor and of a kernel image (`features.h`).

wire_enum! {
    /// A feature: a bit number of submap 0 (`XENFEAT_*`).
    pub struct Feature(u32) {
        /// The guest may write its own page tables.
        WRITABLE_PAGE_TABLES = 0,
        /// The guest may write its own descriptor tables.
        WRITABLE_DESCRIPTOR_TABLES = 1,
        /// Pfns and mfns are the same.
        AUTO_TRANSLATED_PHYSMAP = 2,
        /// The kernel runs at CPL0.
        SUPERVISOR_MODE_KERNEL = 3,
        /// Page tables of 32-bit guests may lie above 4 GiB.
        PAE_PGDIR_ABOVE_4GB = 4,
        /// `MMU_PT_UPDATE_PRESERVE_AD` exists.
        MMU_PT_UPDATE_PRESERVE_AD = 5,
        /// Grant maps can set the available bits.
        GNTTAB_MAP_AVAIL_BITS = 7,
        /// The domain may be the control domain.
        DOM0 = 11,
    }
}
