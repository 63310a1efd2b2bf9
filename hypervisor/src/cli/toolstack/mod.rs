//! What runs guests: builds and serves them, starts them again, ends them, tells others of them.

pub mod confine;
pub mod exit;
pub mod reboots;
pub mod served;
pub mod session;
pub mod signals;
pub mod sockets;
pub mod together;
