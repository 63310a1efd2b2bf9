//! Devices.

#[macro_use]
pub mod console;
