//! `xen_version` (`version.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A sub-command (`XENVER_*`).
    pub struct VersionOp(u64) {
        /// `major << 16 | minor`; no argument.
        VERSION = 0,
        /// Tells the part of the version behind the numbers: [`ExtraVersion`].
        EXTRAVERSION = 1,
        /// Tells how the hypervisor was compiled: [`CompileInfo`].
        COMPILE_INFO = 2,
        /// Tells the kinds of guests that can run: [`CapabilitiesInfo`].
        CAPABILITIES = 3,
        /// Tells the revision of the hypervisor's sources: [`ChangesetInfo`].
        CHANGESET = 4,
        /// [`PlatformParameters`].
        PLATFORM_PARAMETERS = 5,
        /// Tells which features a guest may use: [`FeatureInfo`].
        GET_FEATURES = 6,
        /// Bytes in a page; no argument.
        PAGESIZE = 7,
        /// The domain's handle, 16 bytes.
        GUEST_HANDLE = 8,
        /// The hypervisor's command line.
        COMMANDLINE = 9,
        /// The hypervisor's build id.
        BUILD_ID = 10,
    }
}

/// `xen_extraversion_t`: zero-terminated text.
pub type ExtraVersion = [u8; 16];
/// `xen_capabilities_info_t`: zero-terminated text.
pub type CapabilitiesInfo = [u8; 1024];
/// `xen_changeset_info_t`: zero-terminated text.
pub type ChangesetInfo = [u8; 64];

/// `struct xen_compile_info`: zero-terminated texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompileInfo {
    /// The compiler's name and version, ended by a zero byte.
    pub compiler: [u8; 64],
    /// The person who compiled it, ended by a zero byte.
    pub compile_by: [u8; 16],
    /// The host on which it was compiled, ended by a zero byte.
    pub compile_domain: [u8; 32],
    /// The date when it was compiled, ended by a zero byte.
    pub compile_date: [u8; 32],
}
layout!(CompileInfo: 144, compile_by @ 64, compile_domain @ 80, compile_date @ 112);

/// `struct xen_platform_parameters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PlatformParameters {
    /// First address of the hypervisor's range.
    pub virt_start: u64,
}
layout!(PlatformParameters: 8);

/// `struct xen_feature_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FeatureInfo {
    /// In: which 32 features.
    pub submap_idx: u32,
    /// Out: a bit map of [`crate::features::Feature`].
    pub submap: u32,
}
layout!(FeatureInfo: 8, submap @ 4);
