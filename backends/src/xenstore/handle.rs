//! The store as threads of this process share it.

use super::{Caller, ConnectionId, Event, Operation, Permissions, Store};
use crate::bell::Bell;
use parking_lot::FairMutex;
use pv_abi::{DomId, Errno};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

/// What wakes whoever serves a connection: called, without a lock held, when there are events for it, and when it ended.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The store did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("can't {operation} {path} in xenstore: {} ({errno})", errno.text())]
pub struct StoreError {
    /// What was asked for, as a verb.
    pub operation: &'static str,
    /// The node that it was asked of.
    pub path: String,
    /// Why the store has refused it.
    pub errno: Errno,
}

/// The store, shared. Its methods are those of the host domain: everything is allowed, there is no quota, and paths
/// are absolute.
#[derive(Clone, Default)]
pub struct StoreHandle(Arc<FairMutex<Shared>>);

#[derive(Default)]
struct Shared {
    store: Store,
    wakes: BTreeMap<ConnectionId, Wake>,
}

impl StoreHandle {
    /// A handle to `store`, and all its clones are handles to the same.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(FairMutex::new(Shared { store, wakes: BTreeMap::new() })))
    }

    /// Uses the store, then tells watches of what was changed, and wakes whom that concerns. `work` must not come back to
    /// the handle. The lock is given back between `work` and each piece of the telling.
    pub fn with<R>(&self, work: impl FnOnce(&mut Store) -> R) -> R {
        let (result, mut untold) = self.piece(|store| {
            let result = work(store);
            let mut untold = store.take_untold();
            if !untold.is_empty() {
                store.tell(&mut untold);
            }
            (result, untold)
        });
        while !untold.is_empty() {
            self.piece(|store| store.tell(&mut untold));
        }
        result
    }

    /// Does a bounded piece of work under the lock, which is taken once.
    fn piece<R>(&self, work: impl FnOnce(&mut Store) -> R) -> R {
        let mut shared = self.0.lock();
        let result = work(&mut shared.store);
        let woken: Vec<_> =
            shared.store.take_woken().filter_map(|id| shared.wakes.get(&id).cloned()).collect();
        drop(shared);
        woken.iter().for_each(|wake| wake());
        result
    }

    /// A domain is there from now on: [`Store::introduce`].
    ///
    /// # Errors
    /// As there.
    pub fn introduce(&self, domain: DomId) -> Result<(), StoreError> {
        let done = self.with(|store| store.introduce(domain));
        done.map_err(|errno| StoreError { operation: "introduce", path: domain.to_string(), errno })
    }

    /// A domain is gone, and all that was its own: [`Store::release`].
    pub fn release(&self, domain: DomId) {
        self.with(|store| store.release(domain));
    }

    /// A node's value.
    ///
    /// # Errors
    /// ENOENT where there is no such node, EINVAL where that is no path.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        self.operate("read", path, |operation| operation.read(path)).map(|value| value.to_vec())
    }

    /// Sets a node's value, and makes it and what is missing above it.
    ///
    /// # Errors
    /// EINVAL where that is no path, E2BIG for a value of more than 4096 bytes.
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<(), StoreError> {
        self.operate("write", path, |operation| operation.write(path, value))
    }

    /// Makes a node, where there is none, and what is missing above it.
    ///
    /// # Errors
    /// EINVAL where that is no path.
    pub fn mkdir(&self, path: &str) -> Result<(), StoreError> {
        self.operate("make", path, |operation| operation.mkdir(path))
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// ENOENT where not even its parent is there, EINVAL where that is no path, or `/`.
    pub fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.operate("remove", path, |operation| operation.remove(path))
    }

    /// The names of a node's children, in alphabetical order.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn directory(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let children = self.operate("list", path, |operation| operation.directory(path))?;
        Ok(children.names.iter().map(ToString::to_string).collect())
    }

    /// Sets a node's permissions. Domains that are named should be introduced.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn set_permissions(&self, path: &str, permissions: Permissions) -> Result<(), StoreError> {
        self.operate("set permissions of", path, |operation| operation.set_permissions(path, permissions))
    }

    fn operate<T>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl FnOnce(&mut Operation<'_>) -> Result<T, Errno>,
    ) -> Result<T, StoreError> {
        let done = self.with(|store| store.operate(Caller::Privileged, work));
        done.map_err(|errno| StoreError { operation, path: path.to_owned(), errno })
    }

    /// Does several things at once: others see all of them or, where `work` fails, none. The store is locked meanwhile,
    /// so nobody can get in the way, and there is nothing to try again. `work` must not come back to the handle.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn transaction<T, E: From<Errno>>(
        &self,
        work: impl FnOnce(&mut Operation<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.with(|store| store.operate(Caller::Privileged, work))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// As [`Store::connect`].
    pub fn connect(&self, caller: Caller, wake: Wake) -> Result<Connection, Errno> {
        self.with_new(wake, |store| store.connect(caller))
    }

    /// Watches nothing yet; `bell` is rung when there are events.
    pub fn watcher(&self, bell: Arc<Bell>) -> Watcher {
        let open = |store: &mut Store| Ok::<_, Infallible>(store.open(Caller::Privileged));
        let Ok(connection) = self.with_new(Arc::new(move || bell.ring()), open);
        Watcher(connection)
    }

    fn with_new<E>(
        &self,
        wake: Wake,
        open: impl FnOnce(&mut Store) -> Result<ConnectionId, E>,
    ) -> Result<Connection, E> {
        let mut shared = self.0.lock();
        let id = open(&mut shared.store)?;
        shared.wakes.insert(id, wake);
        Ok(Connection { handle: self.clone(), id })
    }
}

/// An open connection; dropping it ends it.
pub struct Connection {
    handle: StoreHandle,
    id: ConnectionId,
}

impl Connection {
    /// Its number in the store.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Uses the store, as [`StoreHandle::with`].
    pub fn with<R>(&self, work: impl FnOnce(&mut Store) -> R) -> R {
        self.handle.with(work)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut shared = self.handle.0.lock();
        shared.store.disconnect(self.id);
        let wake = shared.wakes.remove(&self.id);
        drop(shared);
        drop(wake);
    }
}

/// Paths that a thread of this process watches; dropping it ends that.
pub struct Watcher(Connection);

impl Watcher {
    /// Watches a path, and all below it. The first event, of the path itself, comes at once.
    ///
    /// # Errors
    /// EINVAL where that is no path, EEXIST where it is watched with this token already.
    pub fn watch(&self, path: &str, token: &str) -> Result<(), StoreError> {
        let done = self.0.with(|store| store.watch(self.0.id, path.as_bytes(), token.as_bytes()));
        done.map_err(|errno| StoreError { operation: "watch", path: path.to_owned(), errno })
    }

    /// Does not watch it any more.
    ///
    /// # Errors
    /// ENOENT where it was not watched with this token.
    pub fn unwatch(&self, path: &str, token: &str) -> Result<(), StoreError> {
        let done = self.0.with(|store| store.unwatch(self.0.id, path.as_bytes(), token.as_bytes()));
        done.map_err(|errno| StoreError { operation: "stop watching", path: path.to_owned(), errno })
    }

    /// The next event, where there is one. An event says that something may be different, not what it is now; where
    /// too many wait, the watched path itself stands for all below it.
    pub fn next_event(&self) -> Option<Event> {
        self.0.with(|store| store.next_event(self.0.id))
    }
}
