//! How much a guest may have of the store. Privileged callers have no such limits.

use super::Caller;
use super::tree::Account;
use pv_abi::{DomId, Errno};

/// The limits, each for one guest. Xen's own defaults where Xen has one.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Nodes that it owns; else ENOSPC.
    pub nodes: usize,
    /// Bytes of all these: values, names, permissions, and [`NODE_OVERHEAD`] each; else ENOSPC.
    pub bytes: usize,
    /// Bytes of one node: its value, its permissions, the names of its children; else ENOSPC.
    pub node_bytes: usize,
    /// Entries of a node's permissions, the owner's included; else ENOSPC.
    pub permissions: usize,
    /// Watches that one connection may have; more are E2BIG.
    pub watches: usize,
    /// Open transactions; else ENOSPC.
    pub transactions: usize,
    /// Nodes that one transaction may look at; else ENOSPC.
    pub transaction_nodes: usize,
    /// Bytes that all its open transactions hold; else ENOSPC.
    pub transaction_bytes: usize,
    /// Watch events that wait to be taken. What comes on top is merged into an event for the watch's own path, one a
    /// watch, so that nobody misses that something changed. This one limit holds for everybody.
    pub events: usize,
}

impl Quota {
    /// Whether `owner` may have as much as `account` where `caller` makes it so.
    ///
    /// # Errors
    /// ENOSPC where that is too much.
    pub(super) fn afford(&self, caller: Caller, owner: DomId, account: Account) -> Result<(), Errno> {
        let limited = matches!(caller, Caller::Domain(_)) && owner != DomId::HOST;
        let too_much = account.nodes > self.nodes as i64 || account.bytes > self.bytes as i64;
        if limited && too_much { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

/// What a node costs beside what it holds.
pub const NODE_OVERHEAD: usize = 64;

impl Default for Quota {
    fn default() -> Self {
        Self {
            nodes: 1000,
            bytes: 2 << 20,
            node_bytes: 2048,
            permissions: 5,
            watches: 128,
            transactions: 10,
            transaction_nodes: 1024,
            transaction_bytes: 2 << 20,
            events: 256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_tells_the_limits() {
        let quota = Quota::default();
        let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
        for (what, limit) in [
            ("nodes that it owns", quota.nodes.to_string()),
            ("bytes of these, names and permissions included", mib(quota.bytes)),
            ("bytes of a node: value, permissions, names of children", quota.node_bytes.to_string()),
            ("entries of a node's permissions", quota.permissions.to_string()),
            ("watches", quota.watches.to_string()),
            ("open transactions", quota.transactions.to_string()),
            ("nodes that a transaction looks at", quota.transaction_nodes.to_string()),
            ("bytes that its transactions hold", mib(quota.transaction_bytes)),
            ("watch events that were not taken", quota.events.to_string()),
        ] {
            let row = format!("\n| {what} | {limit} |");
            assert!(include_str!("../../../docs/xenstore.md").contains(&row), "no {row}");
        }
    }
}
