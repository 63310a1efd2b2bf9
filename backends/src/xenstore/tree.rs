//! The nodes that there are, and what they cost their owners.
//!
//! Nodes lie in one flat map, so nothing here goes down a tree and no depth that a guest chooses is ever recursion. A
//! node lists its children; **invariants**: a node exists exactly if its parent lists it, `/` exists always, and
//! the accounts are what adding up all nodes gives ([`Tree::audit`], after each test).

use super::path::Path;
use super::permissions::Permissions;
use super::quota::NODE_OVERHEAD;
use pv_abi::DomId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A node. Nobody changes one in place: a changed node is another, with another generation.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Arc<[u8]>,
    pub permissions: Permissions,
    pub children: BTreeSet<Arc<str>>,
    /// No two nodes that ever were have the same.
    pub generation: u64,
}

impl Node {
    pub fn new(value: &[u8], permissions: Permissions) -> Self {
        Self { value: value.into(), permissions, children: BTreeSet::new(), generation: 0 }
    }

    /// What counts against the limit of one node.
    pub fn size(&self) -> usize {
        let names = self.children.iter().map(|name| name.len().saturating_add(1)).sum();
        let permissions = self.permissions.entries.len().saturating_add(1).saturating_mul(4);
        self.value.len().saturating_add(names).saturating_add(permissions)
    }
}

/// What somebody owns, or how much more or less.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Account {
    pub nodes: i64,
    pub bytes: i64,
}

impl Account {
    pub fn plus(self, more: Self) -> Self {
        let (nodes, bytes) = (self.nodes.saturating_add(more.nodes), self.bytes.saturating_add(more.bytes));
        Self { nodes, bytes }
    }
}

/// What each owner's nodes take.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Accounts(BTreeMap<DomId, Account>);

impl Accounts {
    pub fn of(&self, owner: DomId) -> Account {
        self.0.get(&owner).copied().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (DomId, Account)> {
        self.0.iter().map(|(owner, account)| (*owner, *account))
    }

    pub fn add(&mut self, path: &Path, node: &Node) {
        self.book(node.permissions.owner, Account { nodes: 1, bytes: cost(path, node) });
    }

    pub fn subtract(&mut self, path: &Path, node: &Node) {
        self.book(node.permissions.owner, Account { nodes: -1, bytes: cost(path, node).saturating_neg() });
    }

    fn book(&mut self, owner: DomId, more: Account) {
        let account = self.0.entry(owner).or_default();
        *account = account.plus(more);
        if *account == Account::default() {
            self.0.remove(&owner);
        }
    }
}

/// What a node costs its owner, in bytes.
pub(super) fn cost(path: &Path, node: &Node) -> i64 {
    path.as_str().len().saturating_add(NODE_OVERHEAD).saturating_add(node.size()) as i64
}

/// Special names that are nodes: their permissions say who is told.
pub(super) const INTRODUCE_DOMAIN: &str = "@introduceDomain";
pub(super) const RELEASE_DOMAIN: &str = "@releaseDomain";

#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<Path, Arc<Node>>,
    accounts: Accounts,
    generation: u64,
}

impl Tree {
    pub fn new() -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), accounts: Accounts::default(), generation: 0 };
        for path in [Path::root(), Path::special_node(INTRODUCE_DOMAIN), Path::special_node(RELEASE_DOMAIN)] {
            tree.replace(&path, Some(Arc::new(Node::new(b"", Permissions::private(DomId::HOST)))));
        }
        tree
    }

    pub fn get(&self, path: &str) -> Option<&Arc<Node>> {
        self.nodes.get(path)
    }

    pub fn account(&self, owner: DomId) -> Account {
        self.accounts.of(owner)
    }

    /// A number that no node has yet.
    pub fn next_generation(&mut self) -> u64 {
        self.generation = self.generation.saturating_add(1); // 64 bits do not run out
        self.generation
    }

    /// Puts a node where one was or was none, or takes it away. Whoever calls keeps the parent's list right.
    pub fn replace(&mut self, path: &Path, node: Option<Arc<Node>>) {
        let old = match node {
            Some(node) => {
                self.accounts.add(path, &node);
                self.nodes.insert(path.clone(), node)
            }
            None => self.nodes.remove(path.as_str()),
        };
        if let Some(old) = old {
            self.accounts.subtract(path, &old);
        }
    }

    /// All nodes that mention a domain in their permissions.
    pub fn naming(&self, domain: DomId) -> Vec<Path> {
        let named = self.nodes.iter().filter(|(_, node)| node.permissions.name(domain));
        named.map(|(path, _)| path.clone()).collect()
    }

    /// Checks the invariants at the head of this file.
    #[cfg(test)]
    pub fn audit(&self) {
        let (mut accounts, mut listed) = (Accounts::default(), 0);
        for (path, node) in &self.nodes {
            accounts.add(path, node);
            for leaf in &node.children {
                assert!(self.nodes.contains_key(path.child(leaf).as_str()), "{path} lists {leaf}");
                listed += 1;
            }
        }
        let roots = 3;
        assert_eq!(self.nodes.len(), listed + roots, "there are nodes that nobody lists");
        assert_eq!(self.accounts, accounts);
    }

    /// All paths with their values and permissions.
    #[cfg(test)]
    pub fn dump(&self) -> Vec<(String, Vec<u8>, Permissions)> {
        let nodes = self.nodes.iter();
        nodes.map(|(path, node)| (path.to_string(), node.value.to_vec(), node.permissions.clone())).collect()
    }
}
