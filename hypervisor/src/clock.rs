//! System time: nanoseconds since the machine's start, on which all timers and guest clocks run.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// A source of time, passed in so that tests can make their own.
pub trait Clock: Debug + Send + Sync {
    /// System time now, in nanoseconds. Never runs backwards.
    fn now(&self) -> u64;

    /// The Unix time at which system time was 0.
    fn wall_clock_at_start(&self) -> Duration;

    /// The nominal frequency of the pcpus' TSCs, in kHz; not 0.
    fn tsc_khz(&self) -> u64;
}

/// The host's monotonic clock, counted from the machine's start.
#[derive(Debug)]
pub struct HostClock {
    start: u64,
    tsc_khz: u64,
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(SECOND).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

impl HostClock {
    /// A clock that starts at 0 now. `tsc_khz` is what the host says of its TSC; 0 counts as 1 MHz.
    pub fn new(tsc_khz: u64) -> Self {
        let tsc_khz = if tsc_khz == 0 { 1000 } else { tsc_khz };
        Self { start: nanoseconds(clock_gettime(ClockId::Monotonic)), tsc_khz }
    }
}

impl Clock for HostClock {
    fn now(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::Monotonic)).saturating_sub(self.start)
    }

    fn wall_clock_at_start(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(self.now()))
    }

    fn tsc_khz(&self) -> u64 {
        self.tsc_khz
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug, Default)]
pub struct FakeClock(std::sync::atomic::AtomicU64);

impl FakeClock {
    /// Moves the clock forward. Nobody who waits for a time is woken by that.
    pub fn advance(&self, nanoseconds: u64) {
        self.0.fetch_add(nanoseconds, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn wall_clock_at_start(&self) -> Duration {
        Duration::new(1_700_000_000, 500)
    }

    fn tsc_khz(&self) -> u64 {
        1_000_000
    }
}
