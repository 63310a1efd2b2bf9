//! The hypervisor's lock-free protocols, compiled from its own sources against atomics whose every interleaving is
//! tried. They are sequentially consistent throughout, so interleavings are all that there is to try.
#![cfg(test)]

mod frame;
mod machine;

use hypervisor::error;
use shuttle::scheduler::DfsScheduler;
use shuttle::{Config, Runner};

/// What the hypervisor's `sync` stands for here.
mod sync {
    pub use shuttle::sync::atomic;
}

/// More interleavings than any of the tests has.
const LIMIT: usize = 2_000_000;

/// Runs `test` under every interleaving.
fn every_interleaving(name: &str, test: impl Fn() + Send + Sync + 'static) {
    let scheduler = DfsScheduler::new(Some(LIMIT), false);
    let tried = Runner::new(scheduler, Config::default()).run(test);
    println!("{name}: {tried} interleavings");
    assert!(tried < LIMIT, "{name} was not tried to the end");
}
