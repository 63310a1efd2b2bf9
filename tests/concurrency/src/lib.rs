//! The hypervisor's concurrent protocols, compiled from its own sources against locks and atomics whose every
//! interleaving is tried. The atomics are sequentially consistent throughout, so interleavings are all that there is
//! to try.
#![allow(missing_docs)] // the sources are documented where they live

pub mod frame;
#[cfg(not(test))] // as below
pub mod grant;
pub mod lock;
pub mod paging;
#[path = "../../../hypervisor/src/machine/kvm/presence.rs"]
pub mod presence;
#[cfg(not(test))] // its own tests need the rest of the hypervisor
#[path = "../../../hypervisor/src/sched/mod.rs"]
pub mod sched;

pub use hypervisor::{clock, domain, error, event_channel, machine, vcpu};

use shuttle::scheduler::DfsScheduler;
use shuttle::{Config, Runner};

/// What the hypervisor's `sync` stands for here.
pub mod sync {
    pub use shuttle::sync::{Condvar, atomic};
}

/// More interleavings than any of the tests has.
const LIMIT: usize = 2_000_000;

/// Runs `test` under every interleaving.
pub fn every_interleaving(name: &str, test: impl Fn() + Send + Sync + 'static) {
    let scheduler = DfsScheduler::new(Some(LIMIT), false);
    let tried = Runner::new(scheduler, Config::default()).run(test);
    println!("{name}: {tried} interleavings");
    assert!(tried < LIMIT, "{name} was not tried to the end");
}

/// What the hypervisor's own tests hook into: here every interleaving is tried anyway.
#[cfg(test)]
pub mod testing {
    /// A word was read, and is about to be exchanged.
    pub fn was_looked_at() {}
}
