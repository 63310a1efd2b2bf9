//! The host domain: back-ends as threads of this process, and what they may reach of a guest.
//!
//! A page of a guest is mapped by holding what the guest grants: while a back-end has it, the guest can make no page
//! table of it, and it stays the guest's after the guest's end.

use crate::contain::contained;
use crate::domain::Domain;
use crate::event_channel::{HostChannel, connect};
use crate::grant::{Access, HostGrant};
use crate::machine::{MachineMemory, NoSuchFrame};
use crate::paging::Mmu;
use backends::Disconnect;
use backends::bell::Bell;
use backends::console::{Console, End, Input};
use backends::host::{Host, HostError, Page};
use pv_abi::{DomId, EventPort, GrantRef};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What the host domain has of one guest.
#[derive(Debug)]
pub struct HostDomain {
    mmu: Arc<Mmu>,
    guest: Arc<Domain>,
    /// The own ends of channels; port n is the one at n - 1.
    channels: Mutex<Vec<HostChannel>>,
}

impl HostDomain {
    /// What there is of `guest`.
    pub fn new(mmu: Arc<Mmu>, guest: Arc<Domain>) -> Self {
        Self { mmu, guest, channels: Mutex::default() }
    }

    fn check_guest(&self, domain: DomId) -> Result<(), HostError> {
        match domain == self.guest.id() {
            true => Ok(()),
            false => Err(HostError::new(format!("{domain} is not served here"))),
        }
    }
}

impl Host for HostDomain {
    type Page = HostPage;

    fn map_grant(&self, domain: DomId, reference: GrantRef) -> Result<HostPage, HostError> {
        self.check_guest(domain)?;
        let (mmu, guest) = (Arc::clone(&self.mmu), Arc::clone(&self.guest));
        HostGrant::new(mmu, guest, reference, Access::ReadWrite)
            .map(HostPage)
            .map_err(|status| HostError::new(format!("{domain} grants no page by {reference:?}: {status}")))
    }

    fn bind_port(&self, domain: DomId, remote: EventPort, bell: Arc<Bell>) -> Result<EventPort, HostError> {
        self.check_guest(domain)?;
        let end = Arc::new(move || bell.ring());
        let channel = connect(&self.guest, remote, end)
            .map_err(|refusal| HostError::new(format!("{domain}'s {remote:?}: {refusal}")))?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.push(channel);
        Ok(EventPort(channels.len() as u32))
    }

    fn notify(&self, port: EventPort) -> Result<(), HostError> {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = (port.0 as usize).checked_sub(1).and_then(|index| channels.get(index));
        let channel = channel.ok_or_else(|| HostError::new(format!("{port:?} is not bound")))?;
        // A guest that has closed its end is not told anything any more: its own affair.
        let _ = channel.notify();
        Ok(())
    }
}

/// A guest's page that a back-end has mapped.
#[derive(Debug)]
pub struct HostPage(HostGrant);

impl HostPage {
    fn memory(&self) -> &MachineMemory {
        self.0.mmu().memory()
    }
}

fn outside(error: NoSuchFrame) -> HostError {
    HostError::new(error.to_string())
}

impl Page for HostPage {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), HostError> {
        self.memory().read(self.0.mfn(), offset, into).map_err(outside)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), HostError> {
        self.memory().write(self.0.mfn(), offset, from).map_err(outside)
    }

    fn load_u32(&self, offset: usize) -> Result<u32, HostError> {
        self.memory().load_u32(self.0.mfn(), offset).map_err(outside)
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), HostError> {
        self.memory().store_u32(self.0.mfn(), offset, value).map_err(outside)
    }
}

/// A thread that serves a guest's console.
#[derive(Debug)]
pub struct ConsoleThread {
    stop: Arc<AtomicBool>,
    input: Arc<Input>,
    thread: JoinHandle<End>,
}

impl ConsoleThread {
    /// Serves the console of `host`'s guest, which waits on `port`: `input` to the guest, its output to `sink`.
    /// `ended` is called where it ends before it is stopped.
    ///
    /// # Errors
    /// Where the guest has no such console, or the host no thread.
    pub fn start(
        host: HostDomain,
        port: EventPort,
        input: Arc<Input>,
        mut sink: impl Write + Send + 'static,
        ended: impl FnOnce(&End) + Send + 'static,
    ) -> Result<Self, Disconnect> {
        let guest = host.guest.id();
        let console = Console::connect(Arc::new(host), guest, GrantRef::CONSOLE, port, Arc::clone(&input))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let end = contained(|| console.run(&mut sink, &stopped));
            let end = end.unwrap_or_else(|defect| Disconnect::from(HostError::new(defect)).into());
            if !matches!(end, End::Stopped) {
                ended(&end);
            }
            end
        };
        let thread = std::thread::Builder::new().name(format!("{guest} console")).spawn(serve);
        let thread =
            thread.map_err(|error: io::Error| HostError::new(format!("a console thread: {error}")))?;
        Ok(Self { stop, input, thread })
    }

    /// Stops it, once all output that the guest has left is written.
    pub fn finish(self) -> Option<End> {
        self.stop.store(true, Ordering::SeqCst);
        self.input.bell().ring();
        self.thread.join().ok()
    }
}

#[cfg(test)]
#[path = "host_domain_tests.rs"]
mod tests;
