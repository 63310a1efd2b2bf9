//! What a front-end does as its back-end's state changes (`io/xenbus.h`): a pure function.
//!
//! Each end writes its state into the store and watches the other's. A state may pass unseen, so [`step`] looks at the
//! two states that there are and not at what changed, and is called until it has nothing more to do.
//!
//! A device's life, seen from here: the back-end is there (2), so rings are published (3); it connects (4), so do we
//! (4). When it closes (5, 6) or vanishes (0), we let go (6); when it is there again (2), all begins anew.

use pv_abi::io::xenbus::XenbusState;
use pv_abi::io::xenbus::XenbusState as S;

/// What a front-end does next, and the state that it is in then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Waits for the other end.
    Wait,
    /// Sets up its rings and tells where they are.
    Publish,
    /// Takes the device into use.
    Connect,
    /// Takes back what it has lent to the back-end. The device cannot be used from then on.
    Disconnect,
    /// Has given up before, and starts anew.
    Restart,
}

impl Step {
    /// The state after it, unless it stays.
    pub const fn state(self) -> Option<XenbusState> {
        match self {
            Self::Wait => None,
            Self::Publish => Some(S::INITIALISED),
            Self::Connect => Some(S::CONNECTED),
            Self::Disconnect => Some(S::CLOSED),
            Self::Restart => Some(S::INITIALISING),
        }
    }
}

/// The next step of a front-end in state `own` whose back-end is in state `other`.
pub fn step(own: XenbusState, other: XenbusState) -> Step {
    match (own, other) {
        (S::INITIALISING, S::INIT_WAIT) => Step::Publish,
        (S::INITIALISED, S::CONNECTED) => Step::Connect,
        // The back-end was started anew, or lets go. Before it has connected it may still be on its way to that.
        (S::CONNECTED, S::UNKNOWN | S::INITIALISING | S::INIT_WAIT | S::CLOSING | S::CLOSED) => {
            Step::Disconnect
        }
        (S::INITIALISED, S::UNKNOWN | S::INITIALISING | S::CLOSING | S::CLOSED) => Step::Disconnect,
        (S::CLOSED, S::INITIALISING | S::INIT_WAIT) => Step::Restart,
        // A back-end that waits in 6 for us to begin is there again when it reads 1.
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state that there is, and one that is none.
    fn all() -> impl Iterator<Item = (S, S)> {
        (0..10).flat_map(|own| (0..10).map(move |other| (S(own), S(other))))
    }

    #[test]
    fn it_comes_to_rest() {
        for (own, other) in all() {
            let mut state = own;
            for _ in 0..3 {
                state = step(state, other).state().unwrap_or(state);
            }
            assert_eq!(step(state, other), Step::Wait, "{own} {other}");
        }
    }

    #[test]
    fn a_device_is_used_exactly_while_both_ends_are_connected() {
        for (own, other) in all() {
            let step = step(own, other);
            assert_eq!(step == Step::Connect, own == S::INITIALISED && other == S::CONNECTED);
            if own == S::CONNECTED {
                let goes_on = matches!(other, S::INITIALISED | S::CONNECTED | S(7) | S(8) | S(9));
                assert_eq!(step == Step::Wait, goes_on, "{other}");
            }
        }
    }

    /// What was published is given up before anything is published again.
    #[test]
    fn rings_are_never_published_twice() {
        for (own, other) in all() {
            let published = matches!(own, S::INITIALISED | S::CONNECTED);
            assert!(
                !(published && matches!(step(own, other), Step::Publish | Step::Restart)),
                "{own} {other}"
            );
        }
    }

    /// States of the back-end as it goes through them, and ours after each.
    fn life(states: &[(u32, u32)]) -> (usize, usize) {
        let (mut own, mut connected, mut disconnected) = (S::INITIALISING, 0, 0);
        for (other, expected) in states {
            for _ in 0..3 {
                let step = step(own, S(*other));
                connected += usize::from(step == Step::Connect);
                disconnected += usize::from(step == Step::Disconnect);
                own = step.state().unwrap_or(own);
            }
            assert_eq!(own, S(*expected), "with the back-end at {other}");
        }
        (connected, disconnected)
    }

    #[test]
    fn a_device_lives() {
        assert_eq!(life(&[(0, 1), (1, 1), (2, 3), (4, 4), (5, 6), (6, 6), (2, 3), (4, 4)]), (2, 1));
    }

    #[test]
    fn a_back_end_that_vanishes_is_let_go() {
        assert_eq!(life(&[(2, 3), (4, 4), (0, 6)]), (1, 1));
    }

    /// Watches merge: it closed and came back before we looked.
    #[test]
    fn a_back_end_that_starts_anew_is_connected_anew() {
        assert_eq!(life(&[(2, 3), (4, 4), (2, 3), (4, 4)]), (2, 1));
    }

    #[test]
    fn a_back_end_that_refuses_is_not_asked_again() {
        assert_eq!(life(&[(2, 3), (5, 6), (6, 6)]), (0, 1));
    }
}
