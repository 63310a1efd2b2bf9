//! Devices.
//!
//! A **driver** knows one class of devices. For each that the domain has, it makes a **front-end**, which lives as long
//! as the device does: it publishes where its rings are, is connected, and disconnected, any number of times. What a
//! front-end offers to the rest of the kernel (a disk, a network interface) is its own affair.
//!
//! To write one: implement [`FrontEnd`] over a [`pv_abi::ring::FrontRing`] in a page that is lent
//! ([`crate::grant::Grant`]), then [`Driver`], and add it to [`DRIVERS`]. `block` is the model. [`crate::xenbus`] finds
//! the devices and does all the talking by xenstore; a front-end sees nodes, and its back-end as a domain.
//!
//! Its port becomes cheaper to notify by [`crate::event::Port::use_doorbell`], once the back-end has connected, and its
//! answers are seen without an event if it is a [`crate::sched::idle::Source`].
//!
//! Rules: none of these functions waits; a back-end is not trusted, so what it says is checked, and an error ends the
//! connection, not the kernel.

// First, for its macros.
#[cfg(guest_image)]
#[macro_use]
pub mod console;

pub mod block;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;

use pv_abi::DomId;

/// Nodes of one end of a device in xenstore: names below its directory, and their values.
pub type Nodes = BTreeMap<String, String>;

/// The driver of a class of devices. It makes a front-end for each device of the class.
pub trait Driver: Sync {
    /// Its directory below `device`.
    fn class(&self) -> &'static str;

    /// A device of the class has appeared: its number, and what the toolstack says of it.
    fn front_end(&self, number: u32, nodes: &Nodes) -> Box<dyn FrontEnd>;
}

/// This end of one device.
pub trait FrontEnd {
    /// Sets up rings for the back-end, a domain that says what it offers; what it is to know of them.
    fn publish(&mut self, back_end: DomId, offers: &Nodes) -> Result<Nodes, String>;

    /// The back-end has connected, and says what the device is: from now on it can be used.
    fn connect(&mut self, properties: &Nodes) -> Result<(), String>;

    /// The back-end is gone, or going. Whatever waits for it ends with an error, and what was lent is taken back.
    fn disconnect(&mut self);
}

/// Every driver that there is.
pub static DRIVERS: [&dyn Driver; 1] = [&block::BlockDriver];
