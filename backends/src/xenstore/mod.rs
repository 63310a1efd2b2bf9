//! The store: a small tree of names and values in which domains and the toolstack find each other (`xenstored`).
//!
//! | where | what | knows of |
//! |---|---|---|
//! | `guest` (with `ring`), `socket` (with `liveness`), `handle` | a guest's page, a Unix socket, callers of this process | locks, threads, bells |
//! | `wire` | streams of bytes to requests | nothing but the store |
//! | `request` | requests to operations and watches | |
//! | `store` (with `domains`, `watching`) | connections, domains, watches, and transactions | |
//! | `operation`, `transaction`, `tree` | what can be done with nodes, by whom, at once | |
//!
//! All but the first row is pure: no I/O, no lock, no clock.
//!
//! **Locks.** There is one, around the store ([`StoreHandle`]). It is held while nothing else is locked or waited for, and
//! for a bounded piece of work: one request, or some of the events that follow from it. It is fair: who gives it back and
//! takes it again comes after all who waited. So a guest with many requests, or with many changes that many watches are told
//! of, costs each operation of another a few pieces. Bells are rung after it was given back.

pub mod client;
mod domains;
mod events;
mod guest;
mod handle;
mod liveness;
mod operation;
mod path;
mod permissions;
mod quota;
mod request;
mod ring;
mod socket;
mod store;
mod transaction;
mod tree;
mod watching;
pub mod wire;

pub use events::Event;
pub use guest::GuestServer;
pub use handle::{Connection, StoreError, StoreHandle, Wake, Watcher};
pub use liveness::{is_dead, remove_dead};
pub use operation::{Children, Operation};
pub use path::Path;
pub use permissions::{Access, Permissions};
pub use quota::{NODE_OVERHEAD, Quota};
pub use socket::SocketServer;
pub use store::Store;
pub use watching::Untold;

use pv_abi::DomId;

/// Who uses the store, and so what it may do there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Caller {
    /// The host domain: may do everything, without quota.
    Privileged,
    /// A guest, which may do what nodes' permissions let it.
    Domain(DomId),
}

/// A connection; no two ever have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnectionId(u64);

#[cfg(test)]
mod tests;
