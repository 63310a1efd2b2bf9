//! What guests and the hypervisor say: lines, screens, logs. Whoever does not read costs nobody but who writes.

pub mod domain_output;
pub mod escape;
pub mod log;
pub mod marked;
pub mod output;
pub mod printer;
pub mod screen;
pub mod stderr;
pub mod stdout;
