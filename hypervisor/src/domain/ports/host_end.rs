//! What stands in a domain's port table for an end of the host's.

use super::Doorbell;
use backend_interface::bell::Bell;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What the host does when a guest uses its end of a channel.
///
/// Called on a pcpu's thread while a vCPU waits: wake whoever does the work and return.
pub trait HostPort: Send + Sync {
    /// The guest sent an event.
    fn notified(&self);

    /// An eventfd that says the same when it is signalled, for the guest to have a doorbell.
    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The guest closed its end, or died: there will be no more events.
    fn closed(&self) {}
}

impl<F: Fn() + Send + Sync> HostPort for F {
    fn notified(&self) {
        self();
    }
}

impl HostPort for Bell {
    fn notified(&self) {
        self.ring();
    }

    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor()
    }
}

/// The host's end as a guest's table holds it. There is one of it, so what it holds goes with the connection.
pub struct HostEnd {
    /// The host's number for it: no two ends of a domain have had the same.
    pub number: u32,
    /// What is told of an event on the port.
    pub port: Arc<dyn HostPort>,
    /// How the guest can tell it without a hypercall.
    pub doorbell: Option<Doorbell>,
}

impl fmt::Debug for HostEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host end {}", self.number)
    }
}
