//! Tests on a fake machine. Every one ends with an audit, and with a look for stale translations.

mod witness;
mod world;

mod actor;
mod basics;
mod copying;
mod doorbells;
mod flushing;
mod preemption;
mod random;
mod refusals;
mod stale;
