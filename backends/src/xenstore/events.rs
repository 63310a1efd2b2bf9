//! Watches, and the events that wait for who set them.

use super::ConnectionId;
use super::path::Path;
use pv_abi::io::xenstore::PAYLOAD_MAX;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Something changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What: relative where the watch's path was. Never above that path.
    pub path: Arc<str>,
    /// What the watch was registered with.
    pub token: Arc<[u8]>,
}

impl Event {
    /// What a message carries.
    pub fn payload(&self) -> Vec<u8> {
        [self.path.as_bytes(), &[0], &self.token, &[0]].concat()
    }
}

#[derive(Debug)]
pub(super) struct Watch {
    pub connection: ConnectionId,
    /// The watched path as its owner wrote it, and the token.
    pub whole: Event,
}

impl Watch {
    /// The event for a change at `path`, which is the watched path or below it. `watched` is that path in full.
    pub fn event(&self, watched: &Path, path: &Path) -> Event {
        // What a relative path leaves out; both paths have it.
        let hidden = watched.as_str().strip_suffix(&*self.whole.path).unwrap_or_default();
        let shown = path.as_str().strip_prefix(hidden).unwrap_or(path.as_str());
        Event { path: shown.into(), token: Arc::clone(&self.whole.token) }
    }
}

/// All watches, by what they watch.
#[derive(Default, Debug)]
pub(super) struct Watches(BTreeMap<Path, Vec<Watch>>);

impl Watches {
    /// Those of a path itself.
    pub fn of<'a>(&'a self, path: &str) -> impl Iterator<Item = (&'a Path, &'a Watch)> + use<'a> {
        let found = self.0.get_key_value(path).into_iter();
        found.flat_map(|(path, watches)| watches.iter().map(move |watch| (path, watch)))
    }

    /// False where the connection has such a watch.
    pub fn add(&mut self, path: Path, watch: Watch) -> bool {
        let others = self.0.entry(path).or_default();
        let same =
            |other: &Watch| other.connection == watch.connection && other.whole.token == watch.whole.token;
        if others.iter().any(same) {
            return false;
        }
        others.push(watch);
        true
    }

    /// Removes one; false where there is none.
    pub fn remove(&mut self, path: &Path, connection: ConnectionId, token: &[u8]) -> bool {
        let Some(watches) = self.0.get_mut(path.as_str()) else { return false };
        let before = watches.len();
        watches.retain(|watch| watch.connection != connection || *watch.whole.token != *token);
        let removed = watches.len() != before;
        if watches.is_empty() {
            self.0.remove(path.as_str());
        }
        removed
    }

    /// Removes all of a connection's.
    pub fn remove_all(&mut self, connection: ConnectionId) {
        self.0.retain(|_, watches| {
            watches.retain(|watch| watch.connection != connection);
            !watches.is_empty()
        });
    }
}

/// Events that were not taken yet.
///
/// One that waits already is not queued again, as in Xen's store, but for special names: there every event counts.
/// Where the queue is full, or an event too long for a message, one for the watch's own path stands for all there are.
#[derive(Default, Debug)]
pub(super) struct Events(VecDeque<Event>);

impl Events {
    pub fn push(&mut self, watch: &Watch, event: Event, limit: usize) {
        let full = self.0.len() >= limit || event.payload().len() > PAYLOAD_MAX as usize;
        let event = if full { watch.whole.clone() } else { event };
        let each_counts = event.path.starts_with('@') && !full;
        if each_counts || !self.0.contains(&event) {
            self.0.push_back(event);
        }
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
