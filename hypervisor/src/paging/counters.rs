//! What was done so far; for the monitor, the benchmarks and the tests.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What the paging code has done since the machine's start, counted.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub(super) $name: AtomicU64,)*
        }

        /// The counts at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CountersNow {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(super) fn now(&self) -> CountersNow {
                CountersNow { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Entries checked while whole tables were.
    entries_validated,
    /// Entries updated one by one.
    entries_updated,
    /// Tables that became valid.
    tables_validated,
    /// Tables that ceased to be tables.
    tables_retired,
    /// Changed entries that were made to take effect.
    changes_settled,
    /// Calls that were refused.
    refusals,
    /// Calls that were interrupted.
    preemptions,
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
