//! How long a back-end polls before it sleeps.
//!
//! Waking a sleeping thread costs tens of microseconds, polling costs the processor. So a back-end polls as long
//! as that paid off lately, and not at all for a front-end that is quiet.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_micros(5);
const LONGEST: Duration = Duration::from_micros(100);

/// The time to poll, adapted to what happened.
#[derive(Debug, Default)]
pub struct Patience(Duration);

impl Patience {
    /// How long to poll now; zero where it is not worth it.
    pub fn time(&self) -> Duration {
        self.0
    }

    /// Polling found work.
    pub fn paid_off(&mut self) {
        self.0 = self.0.saturating_mul(2).clamp(SHORTEST, LONGEST);
    }

    /// Polling found nothing, and the sleep behind it took so long. A short one says that polling a little longer
    /// would have been better.
    pub fn slept(&mut self, duration: Duration) {
        if duration < LONGEST {
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
        assert_eq!(patience.time(), Duration::ZERO);
        patience.slept(Duration::from_micros(30));
        assert_eq!(patience.time(), SHORTEST);
        (0..10).for_each(|_| patience.paid_off());
        assert_eq!(patience.time(), LONGEST);
        (0..10).for_each(|_| patience.slept(Duration::from_secs(1)));
        assert_eq!(patience.time(), Duration::ZERO);
    }
}
