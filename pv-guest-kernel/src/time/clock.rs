//! The paravirtual clock: nanoseconds since the machine's start, computed from the time stamp counter
//! with parameters that the hypervisor publishes.

use core::sync::atomic::{AtomicU64, Ordering};

use super::SECOND;
use crate::arch::processor;
use crate::shared_info;

/// The latest time that any vCPU has seen: their clocks differ a little.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// System time in nanoseconds. It never goes back.
pub fn now() -> u64 {
    loop {
        let tsc = processor::time_stamp_counter();
        if let Some(info) = shared_info::time_info() {
            // A counter read before an update would be older than the update.
            let now = info.system_time_at(tsc.max(info.tsc_timestamp));
            return LATEST.fetch_max(now, Ordering::Relaxed).max(now);
        }
        core::hint::spin_loop();
    }
}

/// Unix time in seconds: that of the machine's start, which `shared_info` has, and system time since.
pub fn wall_clock() -> u64 {
    loop {
        if let Some((seconds, nanoseconds)) = shared_info::wall_clock() {
            return seconds + (u64::from(nanoseconds) + now()) / SECOND;
        }
        core::hint::spin_loop();
    }
}
