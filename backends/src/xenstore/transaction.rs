//! A transaction: nodes that it looked at, as they were at the first look, and what it made of them.
//!
//! Everything that reads or changes nodes does so in a transaction; a request without one has its own, which nobody can
//! get in the way of. As in Xen's store, nothing is copied at the start. What a transaction sees may
//! therefore be of two times, but it can be committed only while all of it still is as it was seen: a transaction that
//! succeeds has seen one state, that at its end.
//!
//! **Invariant**: [`Transaction::get`] may fail, [`Transaction::put`] cannot, and no node is put before it was got. So an
//! operation that gets all it needs first is done whole or not at all.

use super::path::Path;
use super::permissions::Permissions;
use super::quota::NODE_OVERHEAD;
use super::tree::{Account, Accounts, Node, Tree, cost};
use pv_abi::{DomId, Errno};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who is told of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tell {
    /// Nobody: the list of children changed.
    Nobody,
    /// Watches of the very path: it went with a node above it.
    Exact,
    /// Watches of the path and of all above it.
    Above,
}

/// A change that watches are to be told of.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub path: Path,
    pub exact: bool,
    /// Who could read it before may know that it is gone, or closed to him.
    pub before: Option<Permissions>,
}

/// How much a transaction may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub nodes: usize,
    pub bytes: usize,
}

#[derive(Debug)]
struct Accessed {
    /// The generation that it had at the first look; none where there was no node.
    seen: Option<u64>,
    now: Option<Arc<Node>>,
    changed: bool,
    /// Where in `changes` it is.
    noted: Option<usize>,
}

#[derive(Default, Debug)]
pub(super) struct Transaction {
    accessed: BTreeMap<Path, Accessed>,
    changes: Vec<Change>,
    /// What it adds to everybody's accounts.
    accounts: Accounts,
    bytes: usize,
    /// Without: as much as it likes.
    pub room: Option<Room>,
    /// It cannot be committed any more.
    pub doomed: bool,
}

impl Transaction {
    /// Bytes that it holds: at least what is kept in memory on its behalf.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What `owner` would have if this were committed now.
    pub fn account(&self, tree: &Tree, owner: DomId) -> Account {
        tree.account(owner).plus(self.accounts.of(owner))
    }

    /// True where there is a node. Does not count as a look.
    pub fn exists(&self, tree: &Tree, path: &str) -> bool {
        self.accessed.get(path).map_or_else(|| tree.get(path).is_some(), |accessed| accessed.now.is_some())
    }

    /// Looks at a node.
    ///
    /// # Errors
    /// ENOSPC where that is more than it may look at, or it holds more than it may already: putting can't fail, so
    /// what was put is counted at the next look.
    pub fn get(&mut self, tree: &Tree, path: &Path) -> Result<Option<Arc<Node>>, Errno> {
        let accessed = self.accessed.get(path);
        let node = accessed.map_or_else(|| tree.get(path.as_str()).cloned(), |accessed| accessed.now.clone());
        let held = match (accessed, &node) {
            (Some(_), _) => 0,
            (None, Some(node)) => cost(path, node) as usize,
            (None, None) => path.as_str().len().saturating_add(NODE_OVERHEAD),
        };
        let looks = self.accessed.len().saturating_add(usize::from(held != 0));
        let bytes = self.bytes.saturating_add(held);
        if self.room.is_some_and(|room| looks > room.nodes || bytes > room.bytes) {
            return Err(Errno::ENOSPC);
        }
        if held == 0 {
            return Ok(node);
        }
        self.bytes = bytes;
        let seen = node.as_ref().map(|node| node.generation);
        self.accessed.insert(path.clone(), Accessed { seen, now: node.clone(), changed: false, noted: None });
        Ok(node)
    }

    /// Puts another node, or none, where it has looked.
    pub fn put(&mut self, tree: &mut Tree, path: &Path, mut node: Option<Node>, tell: Tell) {
        let Some(accessed) = self.accessed.get_mut(path.as_str()) else {
            debug_assert!(false, "{path} is put and was not got");
            return;
        };
        if let Some(node) = &mut node {
            node.generation = tree.next_generation();
            self.accounts.add(path, node);
            self.bytes = self.bytes.saturating_add(cost(path, node) as usize);
        }
        let old = std::mem::replace(&mut accessed.now, node.map(Arc::new));
        accessed.changed = true;
        if let Some(old) = &old {
            self.accounts.subtract(path, old);
        }
        if tell == Tell::Nobody {
            return;
        }
        let exact = tell == Tell::Exact;
        match accessed.noted.and_then(|index| self.changes.get_mut(index)) {
            Some(change) => change.exact &= exact,
            None => {
                accessed.noted = Some(self.changes.len());
                let before = old.map(|old| old.permissions.clone());
                self.changes.push(Change { path: path.clone(), exact, before });
            }
        }
    }

    /// Makes its changes the tree's, if everything still is as it was seen; tells what there is to tell.
    ///
    /// # Errors
    /// EAGAIN where something is not as it was, and what `afford` says of somebody who would own more than before.
    pub fn commit(
        self,
        tree: &mut Tree,
        afford: impl Fn(DomId, Account) -> Result<(), Errno>,
    ) -> Result<Vec<Change>, Errno> {
        let generation = |path: &Path| tree.get(path.as_str()).map(|node| node.generation);
        if self.doomed || self.accessed.iter().any(|(path, accessed)| generation(path) != accessed.seen) {
            return Err(Errno::EAGAIN);
        }
        for (owner, more) in self.accounts.iter() {
            if more.nodes > 0 || more.bytes > 0 {
                afford(owner, self.account(tree, owner))?;
            }
        }
        for (path, accessed) in self.accessed {
            if accessed.changed {
                tree.replace(&path, accessed.now);
            }
        }
        Ok(self.changes)
    }
}
