//! Domains that come and go.

use super::Caller;
use super::permissions::Permissions;
use super::store::{Connection, Store};
use super::tree::{INTRODUCE_DOMAIN, Node, RELEASE_DOMAIN};
use pv_abi::{DomId, Errno};

impl Store {
    /// A domain is there from now on, and may connect and be named in permissions. Its builder calls this before it
    /// makes the domain's home. Fires `@introduceDomain`.
    ///
    /// # Errors
    /// EINVAL for a number that no guest has, EEXIST for a domain that is there.
    pub fn introduce(&mut self, domain: DomId) -> Result<(), Errno> {
        if domain == DomId::HOST || domain >= DomId::FIRST_RESERVED {
            return Err(Errno::EINVAL);
        }
        if !self.domains.insert(domain) {
            return Err(Errno::EEXIST);
        }
        self.fire_special(INTRODUCE_DOMAIN);
        Ok(())
    }

    /// A domain is gone: its connection with all watches and transactions, the nodes that it owns with all below them,
    /// and each permission that names it. Whoever gets its number next inherits nothing. Fires `@releaseDomain`.
    ///
    /// Transactions that are open now can't be committed: they may be about to name the domain.
    pub fn release(&mut self, domain: DomId) {
        if !self.domains.remove(&domain) {
            return;
        }
        let its = |connection: &Connection| connection.caller == Caller::Domain(domain);
        let ids: Vec<_> = self.connections.iter().filter(|(_, it)| its(it)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.disconnect(id));
        for connection in self.connections.values_mut() {
            connection.transactions.values_mut().for_each(|transaction| transaction.doomed = true);
        }
        self.forget(domain);
        self.fire_special(RELEASE_DOMAIN);
    }

    /// Removes a domain from the tree: its nodes go, and so do entries in others' permissions, of which nobody is told.
    /// What can't go, `/` and special names, is the host's again.
    fn forget(&mut self, domain: DomId) {
        for path in self.tree.naming(domain) {
            // Where it is gone already, a node above it was the domain's too.
            let Some(node) = self.tree.get(path.as_str()) else { continue };
            let owned = node.permissions.owner == domain;
            if owned && path.split().is_some() {
                let removed = self.operate(Caller::Privileged, |operation| operation.remove(path.as_str()));
                debug_assert_eq!(removed, Ok(()));
            } else {
                let mut node = Node::clone(node);
                node.permissions.entries.retain(|(named, _)| *named != domain);
                if owned {
                    node.permissions = Permissions::private(DomId::HOST);
                }
                node.generation = self.tree.next_generation();
                self.tree.replace(&path, Some(node.into()));
            }
        }
    }

    /// True from a domain's introduction to its release.
    pub fn is_introduced(&self, domain: DomId) -> bool {
        domain == DomId::HOST || self.domains.contains(&domain)
    }
}
