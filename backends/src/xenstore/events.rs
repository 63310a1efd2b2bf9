//! Watches, and the events that wait for who set them.

use super::ConnectionId;
use super::path::Path;
use pv_abi::io::xenstore::PAYLOAD_MAX;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// What a watch has seen: a node that has changed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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

    fn payload_len(&self) -> usize {
        self.path.len().saturating_add(self.token.len()).saturating_add(2)
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
pub(super) struct Events {
    queue: VecDeque<Event>,
    /// How often each stands in the queue: a look there costs the same however many wait.
    waiting: HashMap<Event, usize>,
}

impl Events {
    pub fn push(&mut self, watch: &Watch, event: Event, limit: usize) {
        let full = self.queue.len() >= limit || event.payload_len() > PAYLOAD_MAX as usize;
        let event = if full { watch.whole.clone() } else { event };
        let each_counts = event.path.starts_with('@') && !full;
        let waiting = self.waiting.entry(event.clone()).or_default();
        if each_counts || *waiting == 0 {
            *waiting = waiting.saturating_add(1);
            self.queue.push_back(event);
        }
    }

    pub fn pop(&mut self) -> Option<Event> {
        let event = self.queue.pop_front()?;
        if let Some(waiting) = self.waiting.get_mut(&event) {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                self.waiting.remove(&event);
            }
        }
        Some(event)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        assert_eq!(self.queue.len(), self.waiting.values().sum::<usize>());
        self.queue.len()
    }
}
