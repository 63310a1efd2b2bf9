//! What a front-end decides about a connection.

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

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::PAGE_SIZE;
    use pv_abi::io::block::MAX_SEGMENTS;

    #[test]
    fn the_documentation_tells_the_limits() {
        let text = include_str!("../../../docs/storage.md");
        let order = MAX_RING_PAGES.ilog2();
        let mib = (usize::from(MAX_INDIRECT_SEGMENTS) * PAGE_SIZE) >> 20;
        for row in [
            format!("\n| pages of a ring | {MAX_RING_PAGES} (`max-ring-page-order` {order})"),
            format!("| {MAX_SEGMENTS}, or {MAX_INDIRECT_SEGMENTS} in an indirect one: {mib} MiB |"),
        ] {
            assert!(text.contains(&row), "no {row}");
        }
    }
}
