//! Watches: set, ended, and told.

use super::events::{Event, Watch};
use super::path::Path;
use super::permissions::{Need, Permissions};
use super::store::Store;
use super::transaction::Change;
use super::{Caller, ConnectionId};
use pv_abi::Errno;

impl Store {
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
        connection.watches = connection.watches.saturating_add(1);
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
        connection.watches = connection.watches.saturating_sub(1);
        Ok(())
    }

    pub(super) fn fire_special(&mut self, name: &str) {
        let path = Path::special_node(name);
        self.fire(&Change { path, exact: false, before: None });
    }

    /// Tells watches of a change.
    pub(super) fn fire(&mut self, change: &Change) {
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
}
