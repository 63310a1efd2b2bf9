//! The grant table as it is, over a machine with one entry.

pub use hypervisor::grant::{Access, Maptrack};

#[path = "../../../hypervisor/src/grant/entry.rs"]
mod entry;
#[path = "../../../hypervisor/src/grant/table.rs"]
mod table;

pub use table::{Active, GrantTable, MAX_FRAMES};
