//! The host domain's ends of event channels: threads of the process rather than vCPUs.

use super::{Peer, raise};
use crate::domain::Domain;
use crate::domain::ports::{HostEnd, HostPort, PortState, PortTable, checked_port};
use crate::error::Refusal;
use pv_abi::{DomId, Errno, EventPort};
use std::sync::{Arc, Weak};

/// The host's handle on a channel. Dropping it leaves the guest's port unbound, for the host to connect again.
#[derive(Debug)]
pub struct HostChannel {
    domain: Weak<Domain>,
    port: EventPort,
    number: u32,
}

/// Connects the host to a port that `domain` left unbound for it. As with every new connection, `end` is notified
/// once, since events may have come before.
///
/// # Errors
/// −EINVAL where the port is not one that waits for the host.
pub fn connect(
    domain: &Arc<Domain>,
    port: EventPort,
    end: Arc<dyn HostPort>,
) -> Result<HostChannel, Refusal> {
    let port = checked_port(port)?;
    let number = {
        let mut table = domain.ports().lock();
        let number = table.next_host_number();
        let entry = table.get_mut(port)?;
        if !matches!(entry.state, PortState::Unbound { remote: DomId::HOST }) {
            return Err(Refusal::new(Errno::EINVAL, "the port does not wait for the host domain"));
        }
        entry.state = PortState::Host(HostEnd { number, port: end.clone(), doorbell: None });
        number
    };
    end.notified();
    Ok(HostChannel { domain: Arc::downgrade(domain), port, number })
}

impl HostChannel {
    /// The guest's port that the channel is connected to.
    pub fn port(&self) -> EventPort {
        self.port
    }

    /// Whether the guest's port still is the other end of this channel, and which vCPU it notifies.
    fn peer(&self, table: &PortTable) -> Option<Peer> {
        let entry = table.get(self.port).ok()?;
        match &entry.state {
            PortState::Host(end) if end.number == self.number => {
                Some(Peer { port: self.port, vcpu: entry.vcpu })
            }
            _ => None,
        }
    }

    /// Sends an event to the guest. False where it has closed its end, or is gone.
    pub fn notify(&self) -> bool {
        let Some(domain) = self.domain.upgrade() else { return false };
        let table = domain.ports().lock();
        self.peer(&table).map(|peer| raise(&domain, &table, peer)).is_some()
    }
}

impl Drop for HostChannel {
    fn drop(&mut self) {
        let Some(domain) = self.domain.upgrade() else { return };
        let mut table = domain.ports().lock();
        if self.peer(&table).is_some()
            && let Ok(entry) = table.get_mut(self.port)
        {
            entry.state = PortState::Unbound { remote: DomId::HOST };
        }
    }
}
