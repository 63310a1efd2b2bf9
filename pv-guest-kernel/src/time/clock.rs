//! The paravirtual clock: nanoseconds since the machine's start, computed from the time stamp counter
//! with parameters that the hypervisor publishes.

use super::SECOND;
use crate::arch::processor;
use crate::shared_info;

/// System time in nanoseconds.
pub fn now() -> u64 {
    loop {
        let tsc = processor::time_stamp_counter();
        if let Some(info) = shared_info::time_info() {
            // A counter read before an update would be older than the update.
            return info.system_time_at(tsc.max(info.tsc_timestamp));
        }
        core::hint::spin_loop();
    }
}

/// Unix time in seconds.
pub fn wall_clock() -> u64 {
    loop {
        if let Some((seconds, nanoseconds)) = shared_info::wall_clock() {
            return seconds + (u64::from(nanoseconds) + now()) / SECOND;
        }
        core::hint::spin_loop();
    }
}
