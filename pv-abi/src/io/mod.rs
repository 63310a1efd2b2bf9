//! Device protocols between front-ends and back-ends (Xen's `io/` headers).

pub mod block;
pub mod byte_ring;
pub mod console;
pub mod xenbus;
pub mod xenstore;
