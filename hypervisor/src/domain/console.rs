//! The host's side of a domain's emergency console (`console_io`).

use std::fmt::Debug;

/// Takes what a domain writes, and gives what it may read. Called on a pcpu's thread, and therefore never waits for
/// whoever reads the output: what there is no room for is not taken, and the vCPU that writes sleeps until there is.
pub trait Console: Debug + Send + Sync {
    /// Takes as much of `bytes` as there is room for; returns how many bytes. Where that is not all, whoever makes room
    /// calls [`Domain::room_again`](super::Domain::room_again) then.
    fn write(&self, bytes: &[u8]) -> usize;

    /// Whether the next write takes anything.
    fn has_room(&self) -> bool {
        true
    }

    /// The domain reads; returns how many bytes there were.
    fn read(&self, _into: &mut [u8]) -> usize {
        0
    }
}

/// Takes everything and gives nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoConsole;

impl Console for NoConsole {
    fn write(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }
}
