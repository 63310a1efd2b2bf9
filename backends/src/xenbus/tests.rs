//! Every pair of states under every event, and the lives of the front-ends that there are.

use super::*;

const EVENTS: [Event; 4] = [Event::Online, Event::Offline, Event::Failed, Event::Gone];

fn all() -> impl Iterator<Item = (S, S, Event)> {
    // 0 to 8, and a number that is no state.
    let states = || (0..10).map(S);
    states().flat_map(move |own| states().flat_map(move |other| EVENTS.map(|event| (own, other, event))))
}

fn is_connected(state: S) -> bool {
    matches!(state, S::CONNECTED | S::RECONFIGURING | S::RECONFIGURED)
}

#[test]
fn actions_and_state_tell_the_same() {
    for (own, other, event) in all() {
        let (next, actions) = step(own, other, event);
        let set: Vec<_> = actions.iter().filter(|action| matches!(action, Action::SetState(_))).collect();
        match next == own {
            true => assert_eq!(set, Vec::<&Action>::new()),
            false => assert_eq!(set, [&Action::SetState(next)]),
        }
        let place = |of: Action| actions.iter().position(|action| *action == of);
        let set = place(Action::SetState(next));
        assert!(place(Action::ReadRingAndConnect) <= set, "{own} {other} {event:?}");
        assert!(
            place(Action::Disconnect) <= set || set.is_none(),
            "its pages are its own again when it reads 6"
        );
        assert!(place(Action::Remove).is_none_or(|at| at + 1 == actions.len()));
        assert_eq!(actions.iter().filter(|action| **action == Action::Disconnect).count().max(1), 1);
    }
}

#[test]
fn it_connects_to_whom_is_ready_and_nobody_else() {
    for (own, other, event) in all() {
        let (next, actions) = step(own, other, event);
        let connects = actions.contains(&Action::ReadRingAndConnect);
        assert_eq!(connects, !is_connected(own) && next == S::CONNECTED);
        let ready = matches!(other, S::INITIALISED | S::CONNECTED);
        let waits = matches!(own, S::INIT_WAIT | S::CLOSED);
        assert_eq!(connects, ready && waits && event == Event::Online, "{own} {other} {event:?}");
    }
}

/// No state in which nothing is connected is reached with something connected.
#[test]
fn it_never_forgets_to_let_go() {
    for (own, other, event) in all() {
        let (next, actions) = step(own, other, event);
        let held = is_connected(own) || own == S::CLOSING;
        let leaves = held && matches!(next, S::INIT_WAIT | S::CLOSED | S::INITIALISING | S::INITIALISED);
        if leaves || held && event == Event::Failed {
            assert_eq!(actions[0], Action::Disconnect, "{own} {other} {event:?}");
        }
    }
}

#[test]
fn what_is_gone_ends_at_once_and_what_is_unwanted_once_it_was_let_go() {
    for (own, other, event) in all() {
        let (next, actions) = step(own, other, event);
        let removes = actions.contains(&Action::Remove);
        match event {
            Event::Gone => assert!(removes && next == S::CLOSED),
            Event::Offline => {
                let used = is_connected(own) || own == S::CLOSING;
                let holds = matches!(other.0, 3..=5 | 7..);
                assert_eq!(removes, !(used && holds), "{own} {other}");
            }
            Event::Online | Event::Failed => assert!(!removes),
        }
    }
}

/// Called again with the same, it comes to rest, and does nothing any more.
#[test]
fn it_comes_to_rest() {
    for (own, other, event) in all().filter(|(_, _, event)| matches!(event, Event::Online | Event::Offline)) {
        let mut state = own;
        for _ in 0..3 {
            let (next, actions) = step(state, other, event);
            state = next;
            if actions.contains(&Action::Remove) {
                break;
            }
        }
        let (next, actions) = step(state, other, event);
        assert_eq!(next, state, "{own} {other} {event:?}");
        assert!(actions.is_empty() || actions == [Action::Remove], "{own} {other} {event:?}");
    }
}

#[test]
fn a_front_end_that_failed_is_not_served_until_it_starts_anew() {
    let (own, actions) = step(S::CONNECTED, S::CONNECTED, Event::Failed);
    assert_eq!((own, &actions[..]), (S::CLOSING, &[Action::Disconnect, Action::SetState(S::CLOSING)][..]));
    for other in [3, 4, 5, 7, 8, 9].map(S) {
        assert_eq!(step(own, other, Event::Online), (own, vec![]));
    }
    assert_eq!(life(own, &[(6, 6), (1, 2), (3, 4)]), 1);
}

/// A life: states of the front-end, and where the back-end must come to rest. Returns how often it connected.
fn life(mut own: S, states: &[(u32, u32)]) -> usize {
    let mut connected = 0;
    for (other, expected) in states {
        for _ in 0..3 {
            let (next, actions) = step(own, S(*other), Event::Online);
            connected += actions.iter().filter(|action| **action == Action::ReadRingAndConnect).count();
            own = next;
        }
        assert_eq!(own, S(*expected), "with the front-end at {other}");
    }
    connected
}

#[test]
fn a_block_front_end_lives() {
    assert_eq!(life(S::INITIALISING, &[(0, 2), (1, 2), (3, 4), (4, 4), (5, 5), (6, 6), (1, 2)]), 1);
}

#[test]
fn a_network_front_end_goes_straight_to_connected() {
    assert_eq!(life(S::INITIALISING, &[(1, 2), (4, 4), (5, 5), (6, 6)]), 1);
}

/// PV-GRUB: goes to 3, closes with 6 alone, waits for 6, writes 1, and waits for 2; then the kernel comes.
#[test]
fn a_boot_loader_hands_over_to_a_kernel() {
    assert_eq!(life(S::INITIALISING, &[(1, 2), (3, 4), (4, 4), (6, 6), (1, 2), (3, 4), (4, 4)]), 2);
}

/// A front-end that starts anew without a word, as a kernel does after a crash of the one before.
#[test]
fn a_front_end_that_starts_anew_is_connected_anew() {
    assert_eq!(life(S::INITIALISING, &[(1, 2), (3, 4), (4, 4), (1, 2), (3, 4)]), 2);
}

/// Watches merge events: the back-end sees 6, and the next time 3.
#[test]
fn a_state_may_pass_unseen() {
    assert_eq!(life(S::INITIALISING, &[(4, 4), (6, 6), (3, 4)]), 2);
    assert_eq!(life(S::INITIALISING, &[(3, 4), (5, 5), (1, 2), (4, 4)]), 2);
}

/// A front-end's node that vanishes under a connected back-end.
#[test]
fn a_front_end_that_vanishes_is_let_go() {
    assert_eq!(life(S::CONNECTED, &[(0, 6), (1, 2), (3, 4)]), 1);
}
