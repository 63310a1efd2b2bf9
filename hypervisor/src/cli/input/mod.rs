//! What is typed, and which guest gets it.

pub mod input_focus;
pub mod keyboard;
pub mod keys;
pub mod terminal;
