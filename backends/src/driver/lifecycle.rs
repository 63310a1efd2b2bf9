//! A device's life: its back-end's states in xenstore, and the connections in between.

use super::{Address, Command, Device, Driver, FrontEnd, Nodes, ServiceControl, serve_until};
use crate::Disconnect;
use crate::bell::Bell;
use crate::host::{Host, HostError};
use crate::xenbus::{Action, Event, step};
use crate::xenstore::{Caller, Connection, StoreError, StoreHandle};
use pv_abi::Errno;
use pv_abi::io::xenbus::XenbusState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A device, as long as it is to be there.
pub struct DeviceLifecycle<H: Host> {
    host: Arc<H>,
    store: StoreHandle,
    address: Address,
    driver: Box<dyn Driver<H>>,
    state: XenbusState,
    device: Option<Box<dyn Device>>,
    control: Arc<ServiceControl>,
    /// Something was written in the store: look up.
    look_up: Arc<AtomicBool>,
    watches: Connection,
}

/// Why the life of a device has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecycleEnd {
    /// It was told so by [`Command::Stop`]; the device itself may live on.
    Stopped,
    /// Nobody wants the device any more, and its front-end has let go.
    Removed,
}

impl<H: Host> DeviceLifecycle<H> {
    /// The life of the device at an address, whose nodes are there.
    ///
    /// # Errors
    /// Where the host has no descriptor left, or the store refuses.
    pub fn new(
        host: Arc<H>,
        store: StoreHandle,
        address: Address,
        driver: Box<dyn Driver<H>>,
    ) -> Result<Self, Disconnect> {
        let bell = Bell::with_descriptor().map_err(|error| HostError::new(format!("a bell: {error}")))?;
        let (bell, look_up) = (Arc::new(bell), Arc::new(AtomicBool::new(true)));
        let (rung, told) = (Arc::clone(&bell), Arc::clone(&look_up));
        let control = Arc::new(ServiceControl::new(bell));
        let wake = Arc::new(move || {
            told.store(true, Ordering::SeqCst);
            rung.ring();
        });
        let refused = |errno: Errno| HostError::new(format!("xenstore, for a device: {errno}"));
        let watches = store.connect(Caller::Privileged, wake).map_err(refused)?;
        for path in [format!("{}/state", address.front_end()), format!("{}/online", address.back_end())] {
            let id = watches.id();
            watches.with(|store| store.watch(id, path.as_bytes(), b"device")).map_err(refused)?;
        }
        let state = XenbusState::INITIALISING;
        Ok(Self { host, store, address, driver, state, device: None, control, look_up, watches })
    }

    /// By what it is told what to do.
    pub fn control(&self) -> &Arc<ServiceControl> {
        &self.control
    }

    /// Lives until it is told to stop, or the device is not wanted any more. `failed` is told whenever its front-end
    /// could not be served, and why.
    ///
    /// # Errors
    /// Where the store does not do its part.
    pub fn run(mut self, failed: &mut dyn FnMut(&Disconnect)) -> Result<LifecycleEnd, StoreError> {
        loop {
            match self.control.command() {
                Command::Serve => {
                    self.look_up.store(false, Ordering::SeqCst);
                    while self.next_event().is_some() {}
                    if self.settle(failed)? {
                        self.clean_up();
                        return Ok(LifecycleEnd::Removed);
                    }
                    self.serve(failed)?;
                }
                Command::Pause => {
                    self.quiesce(failed)?;
                    self.control.park();
                }
                Command::Stop => {
                    self.act(Event::Gone, failed)?;
                    return Ok(LifecycleEnd::Stopped);
                }
            }
        }
    }

    fn quiesce(&mut self, failed: &mut dyn FnMut(&Disconnect)) -> Result<(), StoreError> {
        match self.device.as_mut().map_or(Ok(()), |device| device.quiesce()) {
            Ok(()) => Ok(()),
            Err(reason) => self.fail(&reason, failed),
        }
    }

    fn next_event(&self) -> Option<crate::xenstore::Event> {
        self.watches.with(|store| store.next_event(self.watches.id()))
    }

    /// Serves the device, or sleeps where none is connected, until there is a reason to look up.
    fn serve(&mut self, failed: &mut dyn FnMut(&Disconnect)) -> Result<(), StoreError> {
        let (control, look_up) = (&self.control, &self.look_up);
        let interrupted = || look_up.load(Ordering::SeqCst) || control.is_interrupted();
        match &mut self.device {
            Some(device) => {
                if let Err(reason) = serve_until(&mut **device, control.bell(), &interrupted) {
                    self.fail(&reason, failed)?;
                }
            }
            None if interrupted() => {}
            None => control.bell().listen(),
        }
        Ok(())
    }

    /// Goes from state to state until there is nothing to do; true where the device is to go.
    fn settle(&mut self, failed: &mut dyn FnMut(&Disconnect)) -> Result<bool, StoreError> {
        loop {
            let before = self.state;
            let event = self.event()?;
            if self.act(event, failed)? {
                return Ok(true);
            }
            if self.state == before {
                return Ok(false);
            }
        }
    }

    /// Why to look at the states now.
    fn event(&self) -> Result<Event, StoreError> {
        match self.read(&format!("{}/online", self.address.back_end()))? {
            // Whoever removed the nodes wants nothing any more.
            None => Ok(Event::Gone),
            Some(online) if online == "0" => Ok(Event::Offline),
            Some(_) => Ok(Event::Online),
        }
    }

    /// Does what follows from an event; true where the device is to go.
    fn act(&mut self, event: Event, failed: &mut dyn FnMut(&Disconnect)) -> Result<bool, StoreError> {
        let other = self.read(&format!("{}/state", self.address.front_end()))?;
        let other = other.map_or(XenbusState::UNKNOWN, |state| XenbusState::from_ascii(state.as_bytes()));
        for action in step(self.state, other, event).1 {
            match action {
                Action::ReadRingAndConnect => match self.connect() {
                    Ok(device) => self.device = Some(device),
                    Err(reason) => {
                        self.fail(&reason, failed)?;
                        return Ok(false);
                    }
                },
                Action::Disconnect => self.disconnect(),
                Action::SetState(state) => self.set_state(state, event)?,
                Action::Remove => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The front-end cannot be served.
    fn fail(&mut self, reason: &Disconnect, failed: &mut dyn FnMut(&Disconnect)) -> Result<(), StoreError> {
        failed(reason);
        self.write("error", &reason.to_string())?;
        self.act(Event::Failed, failed).map(drop)
    }

    fn connect(&mut self) -> Result<Box<dyn Device>, Disconnect> {
        let (store, directory) = (&self.store, self.address.front_end());
        let read = |name: &str| {
            let value = store.read(&format!("{directory}/{name}")).ok()?;
            String::from_utf8(value).ok()
        };
        let (host, bell) = (Arc::clone(&self.host), Arc::clone(self.control.bell()));
        self.driver.connect(&FrontEnd { host, domain: self.address.domain, bell, nodes: &read })
    }

    /// What was begun is finished, as far as the front-end lets it, and everything given back.
    fn disconnect(&mut self) {
        if let Some(mut device) = self.device.take() {
            let _ = device.quiesce();
        }
    }

    fn set_state(&mut self, state: XenbusState, event: Event) -> Result<(), StoreError> {
        self.state = state;
        let nodes = match state {
            XenbusState::INIT_WAIT => self.driver.features(),
            XenbusState::CONNECTED => self.driver.properties(),
            _ => Nodes::new(),
        };
        for (name, value) in &nodes {
            self.write(name, value)?;
        }
        if event == Event::Gone { Ok(()) } else { self.write("state", &state.0.to_string()) }
    }

    /// Removes what is left of both ends.
    fn clean_up(&mut self) {
        for path in [self.address.back_end(), self.address.front_end()] {
            let _ = self.store.remove(&path); // perhaps somebody was faster
        }
    }

    fn write(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.store.write(&format!("{}/{name}", self.address.back_end()), value)
    }

    fn read(&self, path: &str) -> Result<Option<String>, StoreError> {
        match self.store.read(path) {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(error) if error.errno == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }
}
