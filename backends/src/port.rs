//! An own end of an event channel.

use crate::bell::Bell;
use crate::host::{Host, HostError};
use pv_abi::{DomId, EventPort};
use std::sync::Arc;

/// An own end of an event channel, closed when it is dropped.
pub struct Port<H: Host> {
    host: Arc<H>,
    port: EventPort,
}

impl<H: Host> Port<H> {
    /// Connects to a port that `domain` offers; `bell` is rung by its notifications.
    ///
    /// # Errors
    /// As [`Host::bind_port`].
    pub fn bind(host: &Arc<H>, domain: DomId, remote: EventPort, bell: Arc<Bell>) -> Result<Self, HostError> {
        let port = host.bind_port(domain, remote, bell)?;
        Ok(Self { host: Arc::clone(host), port })
    }

    /// Notifies the other end.
    ///
    /// # Errors
    /// As [`Host::notify`].
    pub fn notify(&self) -> Result<(), HostError> {
        self.host.notify(self.port)
    }
}

impl<H: Host> Drop for Port<H> {
    fn drop(&mut self) {
        self.host.close_port(self.port);
    }
}
