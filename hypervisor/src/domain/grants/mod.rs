//! What a domain lends, and what it has mapped of others. What is done with them is in [`crate::grant`].

mod entry;
mod maptrack;
mod table;

pub use entry::status_of;
pub use maptrack::{HostMapping, MAX_MAPPINGS, Maptrack, Parts, Record};
pub use table::{Active, GrantTable, MAX_FRAMES};
