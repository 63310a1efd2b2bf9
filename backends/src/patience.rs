//! How long a back-end polls before it sleeps.
//!
//! Waking a sleeping thread costs tens of microseconds, polling costs the processor. So a back-end polls as long
//! as that paid off lately, and not at all for a front-end that is quiet.

use std::time::{Duration, Instant};

const SHORTEST: Duration = Duration::from_micros(5);
const LONGEST: Duration = Duration::from_micros(100);
/// A sleep that took no longer was mostly waking up: where both ends sleep, each waits for the other to do so, which takes
/// several times as long as they would have polled.
const SHORT_SLEEP: Duration = Duration::from_micros(500);

/// The time to poll, adapted to what happened.
#[derive(Debug, Default)]
pub struct Patience(Duration);

impl Patience {
    /// Serves as long as it is worth to poll; true where there was something to do, and it is done.
    ///
    /// # Errors
    /// Those of `serve`.
    pub fn poll<E>(&mut self, mut serve: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        if self.0.is_zero() {
            return Ok(false);
        }
        let start = Instant::now();
        loop {
            if serve()? {
                self.paid_off();
                return Ok(true);
            }
            if start.elapsed() >= self.0 {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// Polling found work, or would have soon: the next polling may take longer, [`LONGEST`] at most.
    fn paid_off(&mut self) {
        self.0 = self.0.saturating_mul(2).clamp(SHORTEST, LONGEST);
    }

    /// Polling found nothing, and the sleep behind it took so long. A short one says that polling a little longer
    /// would have been better.
    pub fn slept(&mut self, duration: Duration) {
        if duration < SHORT_SLEEP {
            self.paid_off();
        } else {
            self.0 =
                if self.0 > SHORTEST { self.0.checked_div(2).unwrap_or_default() } else { Duration::ZERO };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_success_up_to_a_limit_and_vanishes_when_idle() {
        let mut patience = Patience::default();
        assert_eq!(patience.0, Duration::ZERO);
        patience.slept(Duration::from_micros(300));
        assert_eq!(patience.0, SHORTEST);
        (0..10).for_each(|_| patience.paid_off());
        assert_eq!(patience.0, LONGEST);
        (0..10).for_each(|_| patience.slept(Duration::from_secs(1)));
        assert_eq!(patience.0, Duration::ZERO);
    }

    #[test]
    fn polling_ends_with_work_or_an_error_and_is_not_begun_without_patience() {
        let mut patience = Patience::default();
        assert_eq!(patience.poll(|| Err("it was asked")), Ok(false));
        patience.paid_off();
        assert_eq!((patience.poll(|| Ok::<_, ()>(true)), patience.0), (Ok(true), 2 * SHORTEST));
        assert_eq!((patience.poll(|| Ok::<_, ()>(false)), patience.0), (Ok(false), 2 * SHORTEST));
        assert_eq!(patience.poll(|| Err::<bool, _>("no")), Err("no"));
    }
}
