//! The host's side of a domain's emergency console (`console_io`).

use std::fmt::Debug;

/// Takes what a domain writes, and gives what it may read. Called on a pcpu's thread: it must not block for long.
pub trait Console: Debug + Send + Sync {
    /// The domain wrote `bytes`.
    fn write(&self, bytes: &[u8]);

    /// The domain reads; returns how many bytes there were.
    fn read(&self, _into: &mut [u8]) -> usize {
        0
    }
}

/// Takes everything and gives nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoConsole;

impl Console for NoConsole {
    fn write(&self, _bytes: &[u8]) {}
}
