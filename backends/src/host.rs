//! All that a back-end can reach of the host domain.

use crate::bell::Bell;
use pv_abi::{DomId, EventPort, GrantRef};
use std::sync::Arc;

/// The host domain did not do what a back-end asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct HostError {
    /// What was asked for, and why it was not done.
    pub what: String,
}

impl HostError {
    /// An error with its message.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

/// A page that a front-end shares. The front-end writes it at the same time: bytes are copied, indices are
/// accessed atomically, and nothing that was read once is the same when it is read again.
pub trait Page: Send {
    /// Copies bytes out of the page.
    ///
    /// # Errors
    /// Where the range leaves the page, or the page is gone.
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), HostError>;

    /// Copies bytes into the page.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn write(&self, offset: usize, from: &[u8]) -> Result<(), HostError>;

    /// Reads an aligned index; what the front-end wrote before it is seen by reads after it.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn load_u32(&self, offset: usize) -> Result<u32, HostError>;

    /// Writes an aligned index; whoever sees it sees what was written before it.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), HostError>;
}

/// What the host domain does for its back-ends.
pub trait Host: Send + Sync {
    /// A mapped page; dropping it unmaps it.
    type Page: Page;

    /// Maps a page that `domain` has granted to the host domain.
    ///
    /// # Errors
    /// Where there is no such grant.
    fn map_grant(&self, domain: DomId, reference: GrantRef) -> Result<Self::Page, HostError>;

    /// Connects to a port that `domain` has offered to the host domain, and returns the own end. The bell is rung at
    /// each notification that arrives on it.
    ///
    /// # Errors
    /// Where there is no such offer.
    fn bind_port(&self, domain: DomId, remote: EventPort, bell: Arc<Bell>) -> Result<EventPort, HostError>;

    /// Notifies the other end.
    ///
    /// # Errors
    /// Where `port` is no port of the caller's.
    fn notify(&self, port: EventPort) -> Result<(), HostError>;
}
