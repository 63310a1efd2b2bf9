//! Device protocols between front-ends and back-ends (Xen's `io/` headers).

pub mod console;
