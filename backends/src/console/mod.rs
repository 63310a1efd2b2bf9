//! The console: a domain's output ring to a [`std::io::Write`], an [`Input`] to its input ring.

mod backend;
mod input;
mod ring;

pub use backend::Console;
pub use input::{CAPACITY, Input};

#[cfg(test)]
mod tests;
