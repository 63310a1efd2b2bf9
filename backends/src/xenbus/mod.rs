//! What a back-end does as its front-end's state changes (`io/xenbus.h`): a pure function.
//!
//! Each end writes its state into the store and watches the other's. Watches merge events, so a state may pass
//! unseen: [`step`] looks at the two states that there are and not at what changed, and is called until it has nothing
//! more to do.
//!
//! A device's life, seen from here: the back-end says that it is there (2) before anything else. The front-end sets up
//! its ring and says so, with 3, or, as network front-ends and Mini-OS do, with 4; the back-end connects (4). The
//! front-end closes (5, 6), and the back-end follows (6). A front-end that then starts anew (1), as a boot loader's does
//! before it hands over to a kernel, finds the back-end there again (2). So does one that starts anew without closing.

use pv_abi::io::xenbus::XenbusState;
use pv_abi::io::xenbus::XenbusState as S;

/// Why a back-end looks at the states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// They may have changed; the device is wanted (the back-end's node `online` is 1).
    Online,
    /// They may have changed; the device is to go as soon as its front-end let go (`online` is 0).
    Offline,
    /// The front-end can't be served: what it says is wrong, or it broke its protocol.
    Failed,
    /// The device, or the front-end's domain, is gone already.
    Gone,
}

/// What a back-end does, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Reads where the ring is, and connects to it. Where that fails, the rest is left, and [`Event::Failed`] follows.
    ReadRingAndConnect,
    /// Lets go of ring and grants, where it has any.
    Disconnect,
    /// Publish this state as the back-end's.
    SetState(XenbusState),
    /// Remove the device's nodes: nobody wants it any more.
    Remove,
}

/// What a back-end in state `own` does whose front-end is in state `other`: its next state, and how it gets there.
/// Nothing to do: the same state, and no action.
pub fn step(own: XenbusState, other: XenbusState, event: Event) -> (XenbusState, Vec<Action>) {
    let next = next(own, other, event);
    let mut actions = Vec::new();
    let lets_go = match next {
        // A device that closes is still used, unless its front-end is at fault.
        S::CLOSING => event == Event::Failed,
        S::INIT_WAIT | S::CLOSED => next != own,
        _ => false,
    };
    if lets_go && !matches!(own, S::INITIALISING | S::INIT_WAIT | S::CLOSED) {
        actions.push(Action::Disconnect);
    }
    if next != own {
        actions.extend((next == S::CONNECTED).then_some(Action::ReadRingAndConnect));
        actions.push(Action::SetState(next));
    }
    if event == Event::Gone || event == Event::Offline && next == S::CLOSED {
        actions.push(Action::Remove);
    }
    (next, actions)
}

fn next(own: S, other: S, event: Event) -> S {
    let starting = matches!(other, S::INITIALISING | S::INIT_WAIT);
    let ready = matches!(other, S::INITIALISED | S::CONNECTED);
    let let_go = matches!(other, S::CLOSED | S::UNKNOWN);
    // Nothing here reconfigures itself: whoever writes so finds a device that goes on.
    let connected = matches!(own, S::CONNECTED | S::RECONFIGURING | S::RECONFIGURED);
    let used = connected || own == S::CLOSING;
    match event {
        Event::Gone => S::CLOSED,
        Event::Failed if own == S::CLOSED => S::CLOSED,
        Event::Failed => S::CLOSING,
        _ if used && let_go => S::CLOSED,
        Event::Offline if used && !starting => S::CLOSING,
        Event::Offline => S::CLOSED,
        Event::Online if connected && other == S::CLOSING => S::CLOSING,
        Event::Online if used && !starting => own,
        Event::Online => match own {
            S::INIT_WAIT | S::CLOSED if ready => S::CONNECTED,
            S::INIT_WAIT if matches!(other, S::CLOSING | S::CLOSED) => S::CLOSED,
            S::CLOSED if !starting => S::CLOSED,
            _ => S::INIT_WAIT,
        },
    }
}

#[cfg(test)]
mod tests;
