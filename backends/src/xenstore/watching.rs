//! Watches: set, ended, and told.

use super::events::{Event, Watch};
use super::path::Path;
use super::permissions::{Need, Permissions};
use super::store::Store;
use super::transaction::Change;
use super::{Caller, ConnectionId};
use pv_abi::Errno;
use std::collections::VecDeque;

/// Steps after which a piece of telling ends: paths looked at and watches told. One change more may come on top.
pub(super) const STEPS_OF_A_PIECE: usize = 256;

/// Changes that were made, and of which watches are still to be told. Whoever made them tells, piece by piece
/// ([`Store::tell`]), so that others get at the store in between.
#[derive(Default, Debug)]
pub struct Untold(VecDeque<Made>);

/// A change that was made.
#[derive(Debug)]
struct Made {
    change: Change,
    /// The last connection that there was then. Later ones, of a domain that got a dead one's number, say, could not
    /// know what was there before.
    last_connection: u64,
}

impl Untold {
    /// True where all was told.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

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
        self.note([Change { path, exact: false, before: None }]);
    }

    /// Changes were made: watches are to be told of them.
    pub(super) fn note(&mut self, changes: impl IntoIterator<Item = Change>) {
        let last_connection = self.last_connection;
        self.untold.0.extend(changes.into_iter().map(|change| Made { change, last_connection }));
    }

    /// What was changed since the last call: to be told with [`Self::tell`].
    pub fn take_untold(&mut self) -> Untold {
        std::mem::take(&mut self.untold)
    }

    /// Tells watches of some changes: a bounded piece of work, after which `untold` is what is left. An event says
    /// that something is different, so it may come later than the next change. Returns the steps it took.
    pub fn tell(&mut self, untold: &mut Untold) -> usize {
        let mut steps = 0;
        while steps < STEPS_OF_A_PIECE
            && let Some(made) = untold.0.pop_front()
        {
            steps = self.fire(&made).saturating_add(steps);
        }
        steps
    }

    /// Tells all that there is to tell.
    #[cfg(test)]
    pub(super) fn tell_all(&mut self) {
        let mut untold = self.take_untold();
        while !untold.is_empty() {
            self.tell(&mut untold);
        }
    }

    /// Tells watches of a change; returns the paths that were looked at and the watches that were found.
    fn fire(&mut self, made: &Made) -> usize {
        let Made { change, last_connection } = made;
        let path = &change.path;
        let parent = path.split().and_then(|(parent, _)| self.tree.get(parent.as_str()));
        let nodes = [self.tree.get(path.as_str()), parent];
        let may_know = |caller, ConnectionId(number)| {
            let may_read = |permissions: &Permissions| permissions.allow(caller, Need::Read);
            caller == Caller::Privileged
                || number <= *last_connection && change.before.as_ref().is_some_and(may_read)
                || nodes.iter().flatten().any(|node| may_read(&node.permissions))
        };
        let mut steps = 0usize;
        for above in path.lineage().rev().take(if change.exact { 1 } else { usize::MAX }) {
            steps = steps.saturating_add(1);
            for (watched, watch) in self.watches.of(above) {
                steps = steps.saturating_add(1);
                let Some(connection) = self.connections.get_mut(&watch.connection) else { continue };
                if may_know(connection.caller, watch.connection) {
                    connection.events.push(watch, watch.event(watched, path), self.quota.events);
                    self.woken.insert(watch.connection);
                }
            }
        }
        steps
    }
}
