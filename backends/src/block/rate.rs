//! How fast a disk may be used: a token bucket for bytes and one for operations.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// What a disk's user is limited to; no limit where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Bytes per second, read and written.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Requests per second; none for no limit.
    pub operations_per_second: Option<NonZeroU64>,
}

/// A burst takes as much as comes in within this.
const BURST: Duration = Duration::from_millis(100);
const NANOSECONDS: i128 = 1_000_000_000;

/// Tokens come at a steady rate up to a burst. Taking is allowed while there is any at all, and may leave a debt: a
/// request that is larger than the burst is not refused for ever, but what comes after it waits the longer.
#[derive(Debug)]
struct Bucket {
    per_second: i128,
    /// Billionths of a token.
    level: i128,
    filled: Instant,
}

impl Bucket {
    fn new(per_second: NonZeroU64, now: Instant) -> Self {
        let mut bucket = Self { per_second: per_second.get().into(), level: 0, filled: now };
        bucket.level = bucket.capacity();
        bucket
    }

    /// At least one token, however slow it is.
    fn capacity(&self) -> i128 {
        self.per_second.saturating_mul(BURST.as_nanos() as i128).max(NANOSECONDS)
    }

    /// How long until something can be taken.
    fn wait(&mut self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.filled).as_nanos() as i128;
        self.filled = self.filled.max(now);
        let filled = self.level.saturating_add(elapsed.saturating_mul(self.per_second));
        self.level = filled.min(self.capacity());
        match self.level {
            level if level > 0 => Duration::ZERO,
            debt => {
                let nanoseconds = debt.saturating_neg().checked_div(self.per_second).unwrap_or_default();
                Duration::from_nanos(u64::try_from(nanoseconds.saturating_add(1)).unwrap_or(u64::MAX))
            }
        }
    }

    fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(i128::from(tokens).saturating_mul(NANOSECONDS));
    }
}

/// The buckets of one disk.
#[derive(Debug)]
pub(super) struct Rate {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Rate {
    /// What keeps to `limit` from `now` on; none where it limits nothing.
    pub fn new(limit: Limit, now: Instant) -> Option<Self> {
        let bucket = |rate: Option<NonZeroU64>| rate.map(|rate| Bucket::new(rate, now));
        let rate =
            Self { bytes: bucket(limit.bytes_per_second), operations: bucket(limit.operations_per_second) };
        (limit != Limit::default()).then_some(rate)
    }

    /// How long the next request must wait.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let wait = |bucket: &mut Option<Bucket>| bucket.as_mut().map_or(Duration::ZERO, |it| it.wait(now));
        wait(&mut self.bytes).max(wait(&mut self.operations))
    }

    /// A request is being done.
    pub fn take(&mut self, bytes: u64) {
        self.operations.iter_mut().for_each(|bucket| bucket.take(1));
        self.bytes.iter_mut().for_each(|bucket| bucket.take(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(bytes: u64, operations: u64) -> Limit {
        let rate = NonZeroU64::new;
        Limit { bytes_per_second: rate(bytes), operations_per_second: rate(operations) }
    }

    /// What a user who never pauses gets done in `seconds`, in requests of `bytes`, on a clock of our own.
    fn done(limit: Limit, bytes: u64, seconds: u64) -> u64 {
        let start = Instant::now();
        let (mut rate, mut now, mut count) = (Rate::new(limit, start).unwrap(), start, 0);
        loop {
            now += rate.wait(now);
            if now >= start + Duration::from_secs(seconds) {
                return count;
            }
            rate.take(bytes);
            count += 1;
        }
    }

    #[test]
    fn the_rate_holds_within_a_burst_and_a_request() {
        for (limit, bytes, rate) in [
            (limit(1 << 20, 0), 4096, 256),
            (limit(0, 1000), 1 << 20, 1000),
            (limit(1 << 20, 100), 4096, 100),
            (limit(1 << 20, 100), 1 << 18, 4),
            (limit(u64::MAX, 7), u64::MAX, 1),
        ] {
            let done = done(limit, bytes, 10);
            assert!((rate * 10..=rate * 10 + rate / 10 + 1).contains(&done), "{limit:?}: {done}");
        }
    }

    #[test]
    fn a_request_larger_than_the_burst_is_done_and_paid_for() {
        let start = Instant::now();
        let mut rate = Rate::new(limit(1000, 0), start).unwrap();
        assert_eq!(rate.wait(start), Duration::ZERO);
        rate.take(2100);
        let wait = rate.wait(start);
        assert!(wait > Duration::from_secs(2) && wait < Duration::from_millis(2001), "{wait:?}");
        assert_eq!(rate.wait(start + wait), Duration::ZERO);
    }

    #[test]
    fn a_long_pause_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let mut rate = Rate::new(limit(0, 100), start).unwrap();
        let later = start + Duration::from_secs(1_000_000_000);
        let allowed = (0..1000).take_while(|_| {
            let allowed = rate.wait(later).is_zero();
            rate.take(0);
            allowed
        });
        assert_eq!(allowed.count(), 10);
    }

    #[test]
    fn without_limits_there_is_no_rate() {
        assert!(Rate::new(Limit::default(), Instant::now()).is_none());
        for limit in [limit(1, 0), limit(0, 1)] {
            assert!(Rate::new(limit, Instant::now()).is_some(), "{limit:?}");
        }
    }
}
