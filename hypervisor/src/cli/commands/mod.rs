//! The commands, and how they are asked for: one file each.

pub mod args;
pub mod bench;
pub mod check;
pub mod console;
pub mod kernel;
pub mod manual;
pub mod run;
pub mod xs;
