//! A domain's ports and what each is: plain data and pure decisions.

use super::HostEnd;
use crate::error::Refusal;
use pv_abi::event_channel::{PORTS, Virq};
use pv_abi::{DomId, Errno, EventPort, VcpuId};
use std::collections::BTreeMap;

/// What a port is.
///
/// ```text
///                 alloc_unbound                bind_interdomain by `remote`
///         closed ───────────────▶ unbound ─────────────────────────────────▶ interdomain
///           │ ▲                                   the other end closed            │
///           │ │                      unbound ◀────────────────────────────────────┤
///           │ └──────────────── close ◀───────────────────────────────────────────┘
///           ├─ bind_interdomain ─▶ interdomain      ├─ bind_virq ─▶ virq      └─ bind_ipi ─▶ ipi
/// ```
/// A port to the host domain is unbound until the host connects to it, and unbound again when the host lets go.
#[derive(Debug)]
pub enum PortState {
    /// `remote` may connect to it.
    Unbound {
        /// The domain that may bind the port.
        remote: DomId,
    },
    /// Connected to another domain's port, which is connected to this one.
    Interdomain {
        /// The domain of the other end.
        remote: DomId,
        /// The port of the other end, in its domain.
        port: EventPort,
    },
    /// Connected to the host domain.
    Host(HostEnd),
    /// A virtual interrupt of the port's vCPU.
    Virq(Virq),
    /// For interrupts between the domain's own vCPUs.
    Ipi,
}

/// A port that is not closed.
#[derive(Debug)]
pub struct Port {
    /// What the port is used for.
    pub state: PortState,
    /// The vCPU that it notifies.
    pub vcpu: VcpuId,
}

/// All ports of a domain that are not closed.
#[derive(Debug, Default)]
pub struct PortTable {
    ports: BTreeMap<EventPort, Port>,
    /// The domain is dying: nothing new is bound.
    closed_for_good: bool,
    host_ends: u32,
}

const BAD_PORT: Refusal = Refusal::new(Errno::EINVAL, "no such event port, or it is closed");

impl PortTable {
    /// Puts `port` on the lowest number that is free.
    ///
    /// # Errors
    /// −ENOSPC with all ports in use, −ESRCH for a domain that is dying.
    pub fn insert(&mut self, port: Port) -> Result<EventPort, Refusal> {
        if self.closed_for_good {
            return Err(Refusal::new(Errno::ESRCH, "the domain is dying"));
        }
        // Ports come in order: those before the first gap are numbered without one.
        let before_gap = self.ports.keys().zip(1..).take_while(|(port, number)| port.0 == *number).count();
        let free = (1..PORTS).nth(before_gap).map(EventPort);
        let number = free.ok_or(Refusal::new(Errno::ENOSPC, "all event ports are in use"))?;
        self.ports.insert(number, port);
        Ok(number)
    }

    /// The port with that number.
    ///
    /// # Errors
    /// −EINVAL where it is closed, 0, or past the last.
    pub fn get(&self, number: EventPort) -> Result<&Port, Refusal> {
        self.ports.get(&number).ok_or(BAD_PORT)
    }

    /// As [`Self::get`], to change it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_mut(&mut self, number: EventPort) -> Result<&mut Port, Refusal> {
        self.ports.get_mut(&number).ok_or(BAD_PORT)
    }

    /// Closes a port and returns what it was, without its doorbell: that must not hang any more when the number is used
    /// again.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn remove(&mut self, number: EventPort) -> Result<Port, Refusal> {
        let mut port = self.ports.remove(&number).ok_or(BAD_PORT)?;
        if let PortState::Host(end) = &mut port.state {
            end.doorbell = None;
        }
        Ok(port)
    }

    /// The port that a virtual interrupt is bound to, and the vCPU that it notifies: `vcpu`, unless the interrupt is
    /// one of the domain's.
    pub fn virq(&self, virq: Virq, vcpu: VcpuId) -> Option<(EventPort, VcpuId)> {
        let bound = |port: &Port| {
            let same = matches!(port.state, PortState::Virq(other) if other == virq);
            same && (port.vcpu == vcpu || virq.is_global())
        };
        self.ports.iter().find(|(_, port)| bound(port)).map(|(&number, port)| (number, port.vcpu))
    }

    /// The lowest port in use, for whoever closes all.
    pub fn first(&self) -> Option<EventPort> {
        self.ports.keys().next().copied()
    }

    /// Refuses new ports from now on.
    pub fn close_for_good(&mut self) {
        self.closed_for_good = true;
    }

    /// A number for a new end of the host's.
    pub fn next_host_number(&mut self) -> u32 {
        self.host_ends = self.host_ends.wrapping_add(1);
        self.host_ends
    }

    /// Ports with a doorbell.
    pub fn doorbells(&self) -> usize {
        let has_one = |port: &&Port| matches!(&port.state, PortState::Host(end) if end.doorbell.is_some());
        self.ports.values().filter(has_one).count()
    }

    /// How many ports are in use.
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether no port is in use.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

/// Checks a number that a guest gave: below 4096 and not 0.
///
/// # Errors
/// −EINVAL.
pub fn checked_port(number: EventPort) -> Result<EventPort, Refusal> {
    if number.0 == 0 || number.0 >= PORTS { Err(BAD_PORT) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipi() -> Port {
        Port { state: PortState::Ipi, vcpu: VcpuId(0) }
    }

    #[test]
    fn port_0_is_never_given_and_4095_is_the_last() {
        let mut table = PortTable::default();
        for number in 1..PORTS {
            assert_eq!(table.insert(ipi()), Ok(EventPort(number)));
        }
        assert_eq!(table.insert(ipi()).unwrap_err().errno, Errno::ENOSPC);
        table.remove(EventPort(7)).unwrap();
        assert_eq!(table.insert(ipi()), Ok(EventPort(7)), "a closed number is used again");
        for wild in [0, PORTS, u32::MAX] {
            assert!(table.get(EventPort(wild)).is_err());
            assert!(checked_port(EventPort(wild)).is_err());
        }
    }

    #[test]
    fn a_dying_domain_binds_nothing() {
        let mut table = PortTable::default();
        table.close_for_good();
        assert_eq!(table.insert(ipi()).unwrap_err().errno, Errno::ESRCH);
    }

    #[test]
    fn a_virq_is_found_by_its_vcpu() {
        let mut table = PortTable::default();
        let port = Port { state: PortState::Virq(Virq::TIMER), vcpu: VcpuId(1) };
        let number = table.insert(port).unwrap();
        assert_eq!(table.virq(Virq::TIMER, VcpuId(1)), Some((number, VcpuId(1))));
        assert_eq!(table.virq(Virq::TIMER, VcpuId(0)), None);
        assert_eq!(table.virq(Virq::DEBUG, VcpuId(1)), None);
    }
}
