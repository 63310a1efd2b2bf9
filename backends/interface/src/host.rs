//! All that a back-end can reach of the host domain.

use crate::bell::Bell;
use pv_abi::{DomId, EventPort, GrantRef};
use std::sync::Arc;
use vm_memory::VolatileSlice;

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

/// What a back-end may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The page is read, and never written.
    ReadOnly,
    /// The page is read and written.
    ReadWrite,
}

impl Access {
    /// Whether the page may be written.
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::ReadWrite)
    }
}

/// A page that a front-end shares. The front-end writes it at the same time: bytes are copied, indices are
/// accessed atomically, and nothing that was read once is the same when it is read again.
pub trait Page: Send + Sync + 'static {
    /// Copies bytes out of the page.
    ///
    /// # Errors
    /// Where the range leaves the page, or the page is gone.
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), HostError>;

    /// Copies bytes into the page.
    ///
    /// # Errors
    /// As [`Self::read`], and where the page is for reading only.
    fn write(&self, offset: usize, from: &[u8]) -> Result<(), HostError>;

    /// Reads an aligned index; what the front-end wrote before it is seen by reads after it.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn load_u32(&self, offset: usize) -> Result<u32, HostError>;

    /// Writes an aligned index; whoever sees it sees what was written before it.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), HostError>;

    /// The whole page, for moving much without a copy in between: the host's system calls read and write there. Whoever
    /// has them write says so with [`Self::written`] when they are done.
    ///
    /// # Errors
    /// Where `access` is more than the page was mapped for, or the page is gone.
    fn slice(&self, access: Access) -> Result<VolatileSlice<'_>, HostError>;

    /// The page was written through [`Self::slice`].
    fn written(&self);
}

/// What the host domain does for its back-ends.
pub trait Host: Send + Sync + 'static {
    /// A mapped page; dropping it unmaps it.
    type Page: Page;

    /// Maps a page that `domain` has granted to the host domain.
    ///
    /// # Errors
    /// Where there is no such grant, or it is for less than `access`.
    fn map_grant(&self, domain: DomId, reference: GrantRef, access: Access) -> Result<Self::Page, HostError>;

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

    /// Closes an own port; its bell is rung no more. One that is closed already stays so.
    fn close_port(&self, port: EventPort);
}
