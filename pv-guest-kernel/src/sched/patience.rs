//! How long to look for an answer before sleeping until it is announced.
//!
//! Being woken costs tens of microseconds, looking costs the processor, and where the two sides share one, it keeps the
//! answer from coming. So one looks as long as that paid off lately, and now and then tries whether it would.

const SHORTEST_NS: u64 = 5_000;
const LONGEST_NS: u64 = 100_000;
/// A sleep that was shorter was not worth it. It includes that the other side was woken too: once both sides look, an
/// answer comes much sooner.
const SHORT_SLEEP_NS: u64 = 500_000;
/// Of so many sleeps without an answer seen in between, only those behind the first few make one look longer.
const PERIOD: u32 = 64;
const TRIES: u32 = 8;

/// The time to look, adapted to what happened.
pub struct Patience {
    nanoseconds: u64,
    /// Sleeps since an answer was last seen, or since it was tried again to see one.
    in_vain: u32,
}

impl Patience {
    /// Does not look at all at first: a short sleep is what makes it begin.
    pub const fn new() -> Self {
        Self { nanoseconds: 0, in_vain: 0 }
    }

    /// Nanoseconds to look for an answer the next time; 0: not at all.
    pub fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    /// An answer was seen while one looked: the next look may take longer, [`LONGEST_NS`] at most.
    pub fn paid_off(&mut self) {
        self.in_vain = 0;
        self.grow();
    }

    fn grow(&mut self) {
        self.nanoseconds = (self.nanoseconds * 2).clamp(SHORTEST_NS, LONGEST_NS);
    }

    /// It was not, and the sleep behind that took so long. A short one says that looking a little longer would have
    /// been better, unless that was tried.
    pub fn slept(&mut self, nanoseconds: u64) {
        self.in_vain = (self.in_vain + 1) % PERIOD;
        if nanoseconds < SHORT_SLEEP_NS && self.in_vain <= TRIES {
            self.grow();
        } else if self.nanoseconds > SHORTEST_NS {
            self.nanoseconds /= 2;
        } else {
            self.nanoseconds = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_success_up_to_a_limit_and_vanishes_without() {
        let mut patience = Patience::new();
        assert_eq!(patience.nanoseconds(), 0);
        patience.slept(30_000);
        assert_eq!(patience.nanoseconds(), SHORTEST_NS);
        (0..10).for_each(|_| patience.paid_off());
        assert_eq!(patience.nanoseconds(), LONGEST_NS);
        (0..10).for_each(|_| patience.slept(1_000_000_000));
        assert_eq!(patience.nanoseconds(), 0);
    }

    /// As where both sides share a processor: the answer always comes soon after one has given up.
    #[test]
    fn looking_in_vain_is_tried_now_and_then_only() {
        let mut patience = Patience::new();
        let looks = |patience: &mut Patience, sleeps: u32| {
            let look = |_: &u32| {
                let looks = patience.nanoseconds() > 0;
                patience.slept(30_000);
                looks
            };
            (0..sleeps).filter(look).count()
        };
        for _ in 0..10 {
            let looked = looks(&mut patience, PERIOD);
            assert!((1..=PERIOD as usize / 4).contains(&looked), "{looked}");
        }
        (0..3).for_each(|_| patience.paid_off());
        assert!(patience.nanoseconds() > 0, "until it pays off");
    }
}
