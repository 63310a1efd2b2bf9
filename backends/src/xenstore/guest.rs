//! A guest being served over its ring.

use super::Caller;
use super::handle::{Connection, StoreHandle};
use super::ring::RingEnd;
use super::wire::{Released, Wire};
use crate::Disconnect;
use crate::bell::Bell;
use crate::driver::{Device, Sleep};
use crate::host::{Access, Host, HostError};
use crate::port::Port;
use pv_abi::io::byte_ring::BadIndices;
use pv_abi::io::xenstore::RingError;
use pv_abi::{DomId, EventPort, GrantRef};
use std::sync::Arc;

impl From<Released> for Disconnect {
    fn from(Released: Released) -> Self {
        Self::Released
    }
}

/// The server of one guest's ring.
pub struct GuestServer<H: Host> {
    port: Port<H>,
    ring: RingEnd<H::Page>,
    wire: Wire,
    connection: Connection,
    bell: Arc<Bell>,
}

impl<H: Host> GuestServer<H> {
    /// Connects to the ring and the port that an introduced domain has for the store.
    ///
    /// # Errors
    /// What the domain does not have, or that it is being served already.
    pub fn connect(
        host: &Arc<H>,
        domain: DomId,
        reference: GrantRef,
        port: EventPort,
        store: &StoreHandle,
    ) -> Result<Self, Disconnect> {
        let bell = Arc::new(Bell::default());
        let wake = Arc::clone(&bell);
        let connection = store.connect(Caller::Domain(domain), Arc::new(move || wake.ring()));
        let connection = connection
            .map_err(|error| HostError::new(format!("{domain} can't connect to the store: {error}")))?;
        let ring = RingEnd::new(host.map_grant(domain, reference, Access::ReadWrite)?)?;
        let port = Port::bind(host, domain, port, Arc::clone(&bell))?;
        Ok(Self { port, ring, wire: Wire::new(connection.id()), connection, bell })
    }

    /// What wakes whoever serves it.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Starts anew, as the guest wishes.
    fn reconnect(&mut self) -> Result<(), Disconnect> {
        let reset = self.connection.with(|store| store.reset(self.connection.id()));
        reset.map_err(|error| HostError::new(format!("the store: {error}")))?;
        self.wire = Wire::new(self.connection.id());
        self.ring.reconnect()?;
        self.notify()
    }

    fn notify(&self) -> Result<(), Disconnect> {
        self.port.notify().inspect_err(|_| {
            let _ = self.ring.tell(RingError::COMM);
        })?;
        Ok(())
    }

    fn lying(&self, ring: &str, bad: BadIndices) -> Disconnect {
        let BadIndices { prod, cons } = bad;
        let what = format!("the {ring} ring's indices do not fit: produced {prod}, consumed {cons}");
        self.disconnect(RingError::RINGIDX, what)
    }

    /// Tells the guest why, where it still has its page, and wakes it.
    fn disconnect(&self, error: RingError, what: String) -> Disconnect {
        let told = self.ring.tell(error).and_then(|()| self.port.notify());
        // Whether it heard of it or not: it is served no more.
        let _ = told;
        Disconnect::Protocol(what)
    }
}

impl<H: Host> Device for GuestServer<H> {
    /// Answers what there is, as far as the guest has room for answers; true where that was anything. One call does no
    /// more than the ring holds.
    fn serve(&mut self) -> Result<bool, Disconnect> {
        if self.ring.reconnect_wanted()? {
            return self.reconnect().map(|()| true);
        }
        let mut room = self.ring.room()?.map_err(|bad| self.lying("reply", bad))?;
        let mut available = self.ring.available()?.map_err(|bad| self.lying("request", bad))?;
        let mut moved = false;
        loop {
            let sent = self.wire.output().len().min(room as usize);
            self.ring.put(self.wire.output().get(..sent).unwrap_or_default())?;
            self.wire.sent(sent);
            room = room.saturating_sub(sent as u32);
            let advanced = self.connection.with(|store| self.wire.advance(store))?;
            let taken = available.min(self.wire.wanted() as u32);
            let received = self.wire.receive(&self.ring.take(taken)?);
            received.map_err(|error| self.disconnect(RingError::PROTO, error.to_string()))?;
            available = available.saturating_sub(taken);
            moved |= sent != 0 || taken != 0;
            if sent == 0 && taken == 0 && !advanced {
                break;
            }
        }
        if moved {
            self.ring.publish()?;
            self.notify()?;
        }
        Ok(moved)
    }

    fn prepare_to_sleep(&mut self) -> Result<Sleep, Disconnect> {
        Ok(Sleep::UntilRung)
    }

    /// What the guest has asked before is answered.
    fn quiesce(&mut self) -> Result<(), Disconnect> {
        self.serve().map(drop)
    }
}
