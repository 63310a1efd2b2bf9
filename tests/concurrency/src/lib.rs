//! The hypervisor's concurrent protocols, compiled from its own sources against locks and atomics whose every
//! interleaving is tried. The atomics are sequentially consistent throughout, so interleavings are all that there is
//! to try.
#![allow(missing_docs, rustdoc::broken_intra_doc_links)] // the sources are documented where they live

#[cfg(not(test))]
#[path = "../../../hypervisor/src/alarm.rs"]
pub mod alarm;
#[cfg(not(test))] // its own tests, and those of others below, need the rest of the hypervisor
#[path = "../../../hypervisor/src/defect.rs"]
pub mod defect;
#[cfg(not(test))]
#[path = "../../../hypervisor/src/domain/mod.rs"]
pub mod domain;
#[cfg(not(test))]
#[path = "../../../hypervisor/src/event_channel/mod.rs"]
pub mod event_channel;
pub mod frame;
pub mod lock;
pub mod machine;
pub mod paging;
#[path = "../../../hypervisor/src/machine/kvm/presence.rs"]
pub mod presence;
#[cfg(not(test))]
#[path = "../../../hypervisor/src/sched/mod.rs"]
pub mod sched;
#[cfg(not(test))]
#[path = "../../../hypervisor/src/time.rs"]
pub mod time;
#[cfg(not(test))]
pub mod vcpu;

pub use hypervisor::{clock, error};

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
