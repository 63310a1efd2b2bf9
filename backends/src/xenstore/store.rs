//! The store: nodes, who is connected, their watches and transactions. It does no I/O and holds no lock, and the same
//! calls always give the same answers.
//!
//! **Invariants**, each with its hostile test in `tests/hostile.rs`:
//! - what a guest can make the store keep is bounded ([`Quota`]), whoever it works together with;
//! - when a domain is released, nothing names it any more: its nodes, watches, transactions and permissions are gone;
//! - a watch tells of a node only who may read it, or its parent, or could before the change;
//! - a request that fails has changed nothing.

use super::events::{Event, Events, Watches};
use super::operation::Operation;
use super::permissions::Permissions;
use super::quota::Quota;
use super::transaction::{Room, Transaction};
use super::tree::Tree;
use super::watching::Untold;
use super::{Caller, ConnectionId};
use pv_abi::{DomId, Errno};
use std::collections::{BTreeMap, BTreeSet};

/// See the head of this file. What it is asked to change is done at once; watches are told by [`Self::tell`].
#[derive(Debug)]
pub struct Store {
    pub(super) tree: Tree,
    pub(super) quota: Quota,
    pub(super) domains: BTreeSet<DomId>,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) watches: Watches,
    pub(super) untold: Untold,
    pub(super) last_connection: u64,
    pub(super) woken: BTreeSet<ConnectionId>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub caller: Caller,
    pub transactions: BTreeMap<u32, Transaction>,
    last_transaction: u32,
    pub watches: usize,
    pub events: Events,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Quota::default())
    }
}

impl Store {
    /// An empty store, in which each guest has this quota.
    pub fn new(quota: Quota) -> Self {
        Self {
            tree: Tree::new(),
            quota,
            domains: BTreeSet::new(),
            connections: BTreeMap::new(),
            watches: Watches::default(),
            untold: Untold::default(),
            last_connection: 0,
            woken: BTreeSet::new(),
        }
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
        Ok(self.open(caller))
    }

    /// A new connection for somebody who may have one.
    pub(super) fn open(&mut self, caller: Caller) -> ConnectionId {
        self.last_connection = self.last_connection.saturating_add(1); // 64 bits do not run out
        let id = ConnectionId(self.last_connection);
        let (transactions, events) = (BTreeMap::new(), Events::default());
        let connection = Connection { caller, transactions, last_transaction: 0, watches: 0, events };
        self.connections.insert(id, connection);
        id
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
            bytes: self.quota.transaction_bytes.saturating_sub(held.saturating_sub(inside.bytes())),
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
        self.note(changes);
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

    /// How many events wait for a connection.
    #[cfg(test)]
    pub(super) fn waiting(&self, id: ConnectionId) -> usize {
        self.connections.get(&id).map_or(0, |connection| connection.events.len())
    }
}
