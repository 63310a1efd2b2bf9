//! What a device's back-end is, on the host's side.
//!
//! A **driver** knows one class of devices: it says what it offers, and connects to a front-end that has said where its
//! rings are. What comes out is a **device**: a connected back-end, served by a thread of its own until its front-end
//! leaves or cannot be served any more; dropping it ends what it has begun and gives everything back. A **life** is that
//! thread: it follows the front-end's states in xenstore, and connects and disconnects as [`crate::xenbus`] says.
//!
//! To write one: implement [`Device`] over a [`pv_abi::ring::BackRing`], then [`Driver`]. `crate::block` is the model.
//!
//! Rules: `serve` does a bounded amount of work and never waits for the front-end; a front-end that breaks the protocol
//! is a [`Disconnect`], with the reason; a request that cannot be done is the device's to answer, and where the host is
//! to blame, its user is told ([`crate::failures`]).

mod control;
mod front_end;
mod lifecycle;
mod nodes;
mod serve;

pub use control::{Command, ServiceControl};
pub use front_end::FrontEnd;
pub use lifecycle::{DeviceLifecycle, LifecycleEnd};
pub use nodes::{Address, Nodes, create, withdraw};
pub use serve::{serve_as_told, serve_until};

use crate::Disconnect;
use crate::host::Host;
use std::time::Duration;

/// A class of devices, for one device of it.
pub trait Driver<H: Host>: Send {
    /// What the front-end may choose from. Published before it is waited for (`XenbusStateInitWait`).
    fn features(&self) -> Nodes;

    /// What the device is. Published before it is connected (`XenbusStateConnected`).
    fn properties(&self) -> Nodes;

    /// Connects. The driver stays, for the front-end's next life.
    ///
    /// # Errors
    /// What the front-end did not say, or said wrongly, or has not granted.
    fn connect(&mut self, front_end: &FrontEnd<'_, H>) -> Result<Box<dyn Device>, Disconnect>;
}

/// A back-end that is connected to its front-end.
pub trait Device: Send {
    /// Does what there is to do, a bounded amount of it; true where that was anything.
    ///
    /// # Errors
    /// Why the front-end cannot be served any more.
    fn serve(&mut self) -> Result<bool, Disconnect>;

    /// Asks whoever can bring new work to ring the bell when it comes, and says how long there will be none without
    /// that. Where it has come meanwhile, the answer is [`Sleep::No`].
    ///
    /// # Errors
    /// As [`Self::serve`].
    fn prepare_to_sleep(&mut self) -> Result<Sleep, Disconnect>;

    /// Finishes what was begun, and what cannot be asked for again. What the front-end asks for later waits until the
    /// device is served again, if it is: nothing is under way that touches its pages until then.
    ///
    /// # Errors
    /// As [`Self::serve`].
    fn quiesce(&mut self) -> Result<(), Disconnect>;
}

/// Whether a device's thread may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Not now: there is work.
    No,
    /// Until the bell is rung.
    UntilRung,
    /// Until the bell is rung, but no longer than this.
    AtMost(Duration),
}

#[cfg(test)]
mod tests;
