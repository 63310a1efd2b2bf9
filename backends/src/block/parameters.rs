//! What a front-end and whoever attaches a disk decide about a connection.

use super::rate::Limit;
use pv_abi::{EventPort, GrantRef};

/// Pages of a ring at most.
pub const MAX_RING_PAGES: usize = 16;
/// Segments of an indirect request at most: 1 MiB.
pub const MAX_INDIRECT_SEGMENTS: u16 = 256;

/// Where a front-end has its ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingParameters {
    /// Pages of the ring, in order: a power of two of them.
    pub ring_refs: Vec<GrantRef>,
    /// The front-end's end of the event channel.
    pub port: EventPort,
    /// It always uses the same pages.
    pub persistent_grants: bool,
}

/// What whoever attaches a disk decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How fast it may be used.
    pub limit: Limit,
    /// Use io_uring where the image and the host allow.
    pub uring: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limit: Limit::default(), uring: true }
    }
}
