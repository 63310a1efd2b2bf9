//! The store: nodes, who is connected, their watches and transactions. It does no I/O and holds no lock, and the same
//! calls always give the same answers.
//!
//! **Invariants**, each with its hostile test in `tests/hostile.rs`:
//! - what a guest can make the store keep is bounded ([`Quota`]), whoever it works together with;
//! - when a domain is released, nothing names it any more: its nodes, watches, transactions and permissions are gone;
//! - a watch tells of a node only who may read it, or its parent, or could before the change;
//! - a request that fails has changed nothing.

use super::events::{Event, Events, Watch, Watches};
use super::operation::Operation;
use super::path::Path;
use super::permissions::{Need, Permissions};
use super::quota::Quota;
use super::transaction::{Change, Room, Transaction};
use super::tree::{INTRODUCE_DOMAIN, Node, RELEASE_DOMAIN, Tree};
use super::{Caller, ConnectionId};
use pv_abi::{DomId, Errno};
use std::collections::{BTreeMap, BTreeSet};

/// See the head of this file.
#[derive(Debug)]
pub struct Store {
    pub(super) tree: Tree,
    quota: Quota,
    domains: BTreeSet<DomId>,
    connections: BTreeMap<ConnectionId, Connection>,
    watches: Watches,
    last_connection: u64,
    woken: BTreeSet<ConnectionId>,
}

#[derive(Debug)]
struct Connection {
    caller: Caller,
    transactions: BTreeMap<u32, Transaction>,
    last_transaction: u32,
    watches: usize,
    events: Events,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Quota::default())
    }
}

impl Store {
    /// An empty store.
    pub fn new(quota: Quota) -> Self {
        Self {
            tree: Tree::new(),
            quota,
            domains: BTreeSet::new(),
            connections: BTreeMap::new(),
            watches: Watches::default(),
            last_connection: 0,
            woken: BTreeSet::new(),
        }
    }

    // ---- Domains -------------------------------------------------------------------------------------------------

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

    // ---- Connections ---------------------------------------------------------------------------------------------

    /// A new connection. A domain has at most one.
    ///
    /// # Errors
    /// ENOENT for a domain that is not there, EISCONN for one that has a connection.
    pub fn connect(&mut self, caller: Caller) -> Result<ConnectionId, Errno> {
        if let Caller::Domain(domain) = caller {
            if !self.domains.contains(&domain) {
                return Err(Errno::ENOENT);
            }
            if self.connections.values().any(|connection| connection.caller == caller) {
                return Err(Errno::EISCONN);
            }
        }
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        let (transactions, events) = (BTreeMap::new(), Events::default());
        let connection = Connection { caller, transactions, last_transaction: 0, watches: 0, events };
        self.connections.insert(id, connection);
        Ok(id)
    }

    /// Ends a connection, with its watches and transactions.
    pub fn disconnect(&mut self, id: ConnectionId) {
        self.watches.remove_all(id);
        self.connections.remove(&id);
        self.woken.insert(id);
    }

    /// True until [`Self::disconnect`], or the release of the connection's domain.
    pub fn is_connected(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    /// Ends a connection's watches and transactions, and forgets the events that wait for it.
    ///
    /// # Errors
    /// EIO where there is no such connection.
    pub fn reset(&mut self, id: ConnectionId) -> Result<(), Errno> {
        let connection = self.connection(id)?;
        connection.transactions.clear();
        connection.watches = 0;
        connection.events = Events::default();
        self.watches.remove_all(id);
        Ok(())
    }

    /// Who a connection is.
    ///
    /// # Errors
    /// EIO where there is no such connection: its domain is gone.
    pub fn caller(&self, id: ConnectionId) -> Result<Caller, Errno> {
        self.connections.get(&id).map(|connection| connection.caller).ok_or(Errno::EIO)
    }

    fn connection(&mut self, id: ConnectionId) -> Result<&mut Connection, Errno> {
        self.connections.get_mut(&id).ok_or(Errno::EIO)
    }

    /// The next event for a connection.
    pub fn next_event(&mut self, id: ConnectionId) -> Option<Event> {
        self.connections.get_mut(&id)?.events.pop()
    }

    /// Who got events, or was disconnected, since the last call.
    pub fn take_woken(&mut self) -> impl Iterator<Item = ConnectionId> + use<> {
        std::mem::take(&mut self.woken).into_iter()
    }

    // ---- Nodes and transactions ----------------------------------------------------------------------------------

    /// Works on nodes: all that `work` does happens at once, or, where it fails, nothing.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn operate<T, E: From<Errno>>(
        &mut self,
        caller: Caller,
        work: impl FnOnce(&mut Operation<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut transaction = Transaction::default();
        let done = work(&mut Operation::new(&mut self.tree, &mut transaction, caller, &self.quota, None))?;
        self.commit(caller, transaction)?;
        Ok(done)
    }

    /// Works on nodes in one of a connection's transactions, or, where `transaction` is 0, outside.
    ///
    /// # Errors
    /// Those of `work`; ENOENT where there is no such transaction.
    pub fn within<T>(
        &mut self,
        id: ConnectionId,
        transaction: u32,
        work: impl FnOnce(&mut Operation<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let caller = self.caller(id)?;
        if transaction == 0 {
            return self.operate(caller, work);
        }
        let transactions = &mut self.connections.get_mut(&id).ok_or(Errno::EIO)?.transactions;
        let held: usize = transactions.values().map(Transaction::bytes).sum();
        let inside = transactions.get_mut(&transaction).ok_or(Errno::ENOENT)?;
        let room = Room {
            nodes: self.quota.transaction_nodes,
            bytes: self.quota.transaction_bytes.saturating_sub(held - inside.bytes()),
        };
        let room = matches!(caller, Caller::Domain(_)).then_some(room);
        work(&mut Operation::new(&mut self.tree, inside, caller, &self.quota, room))
    }

    /// Starts a transaction.
    ///
    /// # Errors
    /// ENOSPC where a guest has as many as it may have.
    pub fn start_transaction(&mut self, id: ConnectionId) -> Result<u32, Errno> {
        let limit = self.quota.transactions;
        let connection = self.connection(id)?;
        if connection.caller != Caller::Privileged && connection.transactions.len() >= limit {
            return Err(Errno::ENOSPC);
        }
        let mut number = connection.last_transaction.wrapping_add(1);
        while number == 0 || connection.transactions.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        connection.last_transaction = number;
        connection.transactions.insert(number, Transaction::default());
        Ok(number)
    }

    /// Ends a transaction: its changes happen at once, or never.
    ///
    /// # Errors
    /// ENOENT where there is none; EAGAIN where what it saw has changed; ENOSPC where it would be too much now.
    pub fn end_transaction(&mut self, id: ConnectionId, number: u32, commit: bool) -> Result<(), Errno> {
        let connection = self.connection(id)?;
        let caller = connection.caller;
        let transaction = connection.transactions.remove(&number).ok_or(Errno::ENOENT)?;
        if commit { self.commit(caller, transaction) } else { Ok(()) }
    }

    fn commit(&mut self, caller: Caller, transaction: Transaction) -> Result<(), Errno> {
        let afford = |owner, account| self.quota.afford(caller, owner, account);
        let changes = transaction.commit(&mut self.tree, afford)?;
        changes.iter().for_each(|change| self.fire(change));
        Ok(())
    }

    /// Sets permissions as a client does, who is believed in nothing.
    pub(super) fn set_permissions(
        &mut self,
        id: ConnectionId,
        transaction: u32,
        path: &[u8],
        permissions: Permissions,
    ) -> Result<(), Errno> {
        let domains = self.domains.clone();
        let exists = move |domain| domain == DomId::HOST || domains.contains(&domain);
        self.within(id, transaction, |it| it.set_permissions_if(path, permissions, exists))
    }

    // ---- Watches -------------------------------------------------------------------------------------------------

    /// Watches a path and all below it, or a special name. The first event comes at once.
    ///
    /// # Errors
    /// EINVAL for what is no path, EEXIST for a watch that there is, E2BIG for one more than a guest may have.
    pub fn watch(&mut self, id: ConnectionId, path: &[u8], token: &[u8]) -> Result<(), Errno> {
        let limit = self.quota.watches;
        let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
        let watched = Path::parse(connection.caller, path)?;
        let written = std::str::from_utf8(path).map_err(|_| Errno::EINVAL)?;
        let whole = Event { path: written.into(), token: token.into() };
        let first = Watch { connection: id, whole: whole.clone() };
        if self.watches.of(watched.as_str()).any(|(_, it)| it.connection == id && *it.whole.token == *token) {
            return Err(Errno::EEXIST);
        }
        if connection.caller != Caller::Privileged && connection.watches >= limit {
            return Err(Errno::E2BIG);
        }
        connection.events.push(&first, whole, self.quota.events);
        connection.watches += 1;
        self.woken.insert(id);
        self.watches.add(watched, first);
        Ok(())
    }

    /// Ends a watch. Events of it that wait already are still delivered.
    ///
    /// # Errors
    /// EINVAL for what is no path, ENOENT where there is no such watch.
    pub fn unwatch(&mut self, id: ConnectionId, path: &[u8], token: &[u8]) -> Result<(), Errno> {
        let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
        let path = Path::parse(connection.caller, path)?;
        if !self.watches.remove(&path, id, token) {
            return Err(Errno::ENOENT);
        }
        connection.watches -= 1;
        Ok(())
    }

    fn fire_special(&mut self, name: &str) {
        let path = Path::special_node(name);
        self.fire(&Change { path, exact: false, before: None });
    }

    /// Tells watches of a change.
    fn fire(&mut self, change: &Change) {
        let path = &change.path;
        let parent = path.split().and_then(|(parent, _)| self.tree.get(parent.as_str()));
        let nodes = [self.tree.get(path.as_str()), parent];
        let may_know = |caller| {
            let may_read = |permissions: &Permissions| permissions.allow(caller, Need::Read);
            caller == Caller::Privileged
                || change.before.as_ref().is_some_and(may_read)
                || nodes.iter().flatten().any(|node| may_read(&node.permissions))
        };
        let above = path.lineage().rev().take(if change.exact { 1 } else { usize::MAX });
        for (watched, watch) in above.flat_map(|above| self.watches.of(above)) {
            let Some(connection) = self.connections.get_mut(&watch.connection) else { continue };
            if may_know(connection.caller) {
                connection.events.push(watch, watch.event(watched, path), self.quota.events);
                self.woken.insert(watch.connection);
            }
        }
    }

    /// How many events wait for a connection.
    #[cfg(test)]
    pub(super) fn waiting(&self, id: ConnectionId) -> usize {
        self.connections.get(&id).map_or(0, |connection| connection.events.len())
    }
}
