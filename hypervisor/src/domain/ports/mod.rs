//! A domain's event-channel ports. What is done with them is in [`crate::event_channel`].

mod doorbell;
mod host_end;
mod table;

pub use doorbell::Doorbell;
pub use host_end::{HostEnd, HostPort};
pub use table::{Port, PortState, PortTable, checked_port};
