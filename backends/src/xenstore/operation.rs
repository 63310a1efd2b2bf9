//! What can be done with nodes, by whom.

use super::Caller;
use super::path::Path;
use super::permissions::{Need, Permissions};
use super::quota::Quota;
use super::transaction::{Room, Tell, Transaction};
use super::tree::{Account, Node, Tree, cost};
use pv_abi::io::xenstore::PAYLOAD_MAX;
use pv_abi::{DomId, Errno};
use std::collections::VecDeque;
use std::sync::Arc;

/// Somebody at work in a transaction. Each operation is done whole or, where it fails, not at all.
///
/// A path is what a client writes. Errors are those of Xen's store: EINVAL for what is no path; EACCES for what the
/// caller may not do, which includes being told that a node is not there by a parent that it may not read (or, where it
/// wants to write, not write); ENOENT; and what [`Quota`] says.
#[derive(Debug)]
pub struct Operation<'a> {
    tree: &'a mut Tree,
    transaction: &'a mut Transaction,
    caller: Caller,
    quota: &'a Quota,
}

/// Names of children, or a part of the list, with the node's generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Children {
    /// In alphabetical order.
    pub names: Vec<Arc<str>>,
    /// The same at two looks: nothing changed in between.
    pub generation: u64,
}

impl<'a> Operation<'a> {
    pub(super) fn new(
        tree: &'a mut Tree,
        transaction: &'a mut Transaction,
        caller: Caller,
        quota: &'a Quota,
        room: Option<Room>,
    ) -> Self {
        transaction.room = room;
        Self { tree, transaction, caller, quota }
    }

    /// A node's value.
    ///
    /// # Errors
    /// As at [`Self`].
    pub fn read(&mut self, path: impl AsRef<[u8]>) -> Result<Arc<[u8]>, Errno> {
        let path = self.path(path)?;
        Ok(Arc::clone(&self.look_up(&path, Need::Read)?.value))
    }

    /// The names of a node's children.
    ///
    /// # Errors
    /// As at [`Self`].
    pub fn directory(&mut self, path: impl AsRef<[u8]>) -> Result<Children, Errno> {
        let path = self.path(path)?;
        let node = self.look_up(&path, Need::Read)?;
        Ok(Children { names: node.children.iter().cloned().collect(), generation: node.generation })
    }

    /// A node's permissions, or those of one of the two special names that are nodes.
    ///
    /// # Errors
    /// As at [`Self`].
    pub fn permissions(&mut self, path: impl AsRef<[u8]>) -> Result<Permissions, Errno> {
        let path = Path::parse(self.caller, path.as_ref())?;
        Ok(self.look_up(&path, Need::Read)?.permissions.clone())
    }

    /// Sets a node's value, and makes it and what is missing above it.
    ///
    /// # Errors
    /// As at [`Self`]; E2BIG for a value that no reply could carry.
    pub fn write(&mut self, path: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Errno> {
        let (path, value) = (self.path(path)?, value.as_ref());
        if value.len() > PAYLOAD_MAX as usize {
            return Err(Errno::E2BIG);
        }
        match self.look_up(&path, Need::Write) {
            Ok(node) => self.change(&path, &node, Node { value: value.into(), ..Node::clone(&node) }),
            Err(Errno::ENOENT) => self.create(&path, value),
            Err(error) => Err(error),
        }
    }

    /// Makes a node with an empty value, and what is missing above it; leaves one alone that there is.
    ///
    /// # Errors
    /// As at [`Self`].
    pub fn mkdir(&mut self, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        let path = self.path(path)?;
        match self.look_up(&path, Need::Write) {
            Ok(_) => Ok(()),
            Err(Errno::ENOENT) => self.create(&path, b""),
            Err(error) => Err(error),
        }
    }

    /// Removes a node and all below it, whosever that is. Where there is none, its parent must be there.
    ///
    /// # Errors
    /// As at [`Self`]; EINVAL for `/`.
    pub fn remove(&mut self, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        let path = self.path(path)?;
        let found = self.look_up(&path, Need::Write);
        let (parent_path, leaf) = match path.split() {
            None => return found.and(Err(Errno::EINVAL)),
            Some((parent, _))
                if matches!(found, Err(Errno::ENOENT))
                    && self.transaction.exists(self.tree, parent.as_str()) =>
            {
                return Ok(());
            }
            Some(split) => split,
        };
        found?;
        let mut parent = Node::clone(&*self.get(&parent_path)?.ok_or(Errno::EIO)?);
        let below = self.all_below(&path)?;
        parent.children.remove(&leaf);
        self.transaction.put(self.tree, &parent_path, Some(parent), Tell::Nobody);
        for gone in &below {
            let tell = if *gone == path { Tell::Above } else { Tell::Exact };
            self.transaction.put(self.tree, gone, None, tell);
        }
        Ok(())
    }

    /// Sets a node's permissions. Only its owner may, and only a privileged caller may name another owner.
    ///
    /// What a guest allows to a domain that is not there is left out: nobody who gets that number later inherits it
    /// (`exists` tells).
    ///
    /// # Errors
    /// As at [`Self`]; EPERM for another owner.
    pub(super) fn set_permissions_if(
        &mut self,
        path: impl AsRef<[u8]>,
        mut permissions: Permissions,
        exists: impl Fn(DomId) -> bool,
    ) -> Result<(), Errno> {
        let path = Path::parse(self.caller, path.as_ref())?;
        let node = self.look_up(&path, Need::Own)?;
        if matches!(self.caller, Caller::Domain(_)) {
            if permissions.entries.len() >= self.quota.permissions {
                return Err(Errno::ENOSPC);
            }
            if permissions.owner != node.permissions.owner {
                return Err(Errno::EPERM);
            }
            permissions.entries.retain(|(domain, _)| exists(*domain));
        }
        self.change(&path, &node, Node { permissions, ..Node::clone(&node) })
    }

    /// As the wire's SET_PERMS; whoever calls this is trusted to name domains that are there.
    ///
    /// # Errors
    /// As at [`Self`]; EPERM for another owner.
    pub fn set_permissions(&mut self, path: impl AsRef<[u8]>, permissions: Permissions) -> Result<(), Errno> {
        self.set_permissions_if(path, permissions, |_| true)
    }

    fn path(&self, text: impl AsRef<[u8]>) -> Result<Path, Errno> {
        let path = Path::parse(self.caller, text.as_ref())?;
        if path.is_special() { Err(Errno::EINVAL) } else { Ok(path) }
    }

    fn get(&mut self, path: &Path) -> Result<Option<Arc<Node>>, Errno> {
        self.transaction.get(self.tree, path)
    }

    /// Which of `lineage` there are, and which are not: a node has all nodes above it, so this is a search by halves.
    fn existing<'b, 'c>(&self, lineage: &'b [&'c str]) -> (&'b [&'c str], &'b [&'c str]) {
        lineage.split_at(lineage.partition_point(|path| self.transaction.exists(self.tree, path)))
    }

    fn look_up(&mut self, path: &Path, need: Need) -> Result<Arc<Node>, Errno> {
        let allow = |node: &Node| node.permissions.allow(self.caller, need);
        let answer = match self.transaction.get(self.tree, path)? {
            Some(node) if allow(&node) => return Ok(node),
            Some(_) => Errno::EACCES,
            None => {
                let lineage: Vec<&str> = path.lineage().collect();
                let nearest = self.existing(&lineage).0.last().map(|nearest| Path::from_part(nearest));
                let nearest = nearest.map(|nearest| self.get(&nearest)).transpose()?.flatten();
                let told = nearest.map_or(self.caller == Caller::Privileged, |node| {
                    node.permissions.allow(self.caller, need)
                });
                if told { Errno::ENOENT } else { Errno::EACCES }
            }
        };
        Err(answer)
    }

    /// Puts a node where `old` is.
    fn change(&mut self, path: &Path, old: &Node, new: Node) -> Result<(), Errno> {
        self.fits(&new)?;
        self.afford(new.permissions.owner, 0, cost(path, &new).saturating_sub(cost(path, old)))?;
        self.transaction.put(self.tree, path, Some(new), Tell::Above);
        Ok(())
    }

    /// Makes a node that is not there. What is new has the permissions of what it is made in, but is the caller's.
    fn create(&mut self, path: &Path, value: &[u8]) -> Result<(), Errno> {
        let lineage: Vec<&str> = path.lineage().collect();
        let (existing, missing) = self.existing(&lineage);
        let parent_path = Path::from_part(existing.last().ok_or(Errno::EIO)?);
        let mut parent = Node::clone(&*self.get(&parent_path)?.ok_or(Errno::EIO)?);
        let mut permissions = parent.permissions.clone();
        if let Caller::Domain(domain) = self.caller {
            permissions.owner = domain;
        }

        let mut made = Vec::with_capacity(missing.len());
        for part in missing {
            let (path, node) = (Path::from_part(part), Node::new(b"", permissions.clone()));
            let (_, leaf) = path.split().ok_or(Errno::EINVAL)?;
            let above = made.last_mut().map_or(&mut parent, |(_, above): &mut (Path, Node)| above);
            above.children.insert(leaf);
            self.get(&path)?;
            made.push((path, node));
        }
        if let Some((_, last)) = made.last_mut() {
            last.value = value.into();
        }

        let bytes = made.iter().map(|(path, node)| cost(path, node)).sum();
        self.afford(permissions.owner, made.len() as i64, bytes)?;
        made.iter().try_for_each(|(_, node)| self.fits(node))?;
        self.fits(&parent)?;
        self.transaction.put(self.tree, &parent_path, Some(parent), Tell::Nobody);
        for (new, node) in made {
            let tell = if new == *path { Tell::Above } else { Tell::Nobody };
            self.transaction.put(self.tree, &new, Some(node), tell);
        }
        Ok(())
    }

    /// A node and all below it, looked at, parents first.
    fn all_below(&mut self, path: &Path) -> Result<Vec<Path>, Errno> {
        let (mut all, mut ahead) = (Vec::new(), VecDeque::from([path.clone()]));
        while let Some(path) = ahead.pop_front() {
            let node = self.get(&path)?.ok_or(Errno::EIO)?;
            ahead.extend(node.children.iter().map(|leaf| path.child(leaf)));
            all.push(path);
        }
        Ok(all)
    }

    fn fits(&self, node: &Node) -> Result<(), Errno> {
        let guest = matches!(self.caller, Caller::Domain(_));
        if guest && node.size() > self.quota.node_bytes { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Whether `owner` can have so much more.
    fn afford(&self, owner: DomId, nodes: i64, bytes: i64) -> Result<(), Errno> {
        let has = self.transaction.account(self.tree, owner);
        if nodes <= 0 && bytes <= 0 {
            return Ok(());
        }
        self.quota.afford(self.caller, owner, has.plus(Account { nodes, bytes }))
    }
}
