//! How the two ends of a device find each other (`io/xenbus.h`): each writes its state into a node of its own, as a
//! decimal number, and watches the other's.

wire_enum! {
    /// The state of one end (`XenbusState*`, `enum xenbus_state`).
    pub struct XenbusState(u32) {
        /// There is none, or none that can be read.
        UNKNOWN = 0,
        /// This end is being set up, and has published nothing yet.
        INITIALISING = 1,
        /// `XenbusStateInitWait`: waits for what the other end has to tell.
        INIT_WAIT = 2,
        /// Has told all, and waits to be connected.
        INITIALISED = 3,
        /// This end is connected: requests can be made, or are served.
        CONNECTED = 4,
        /// This end is being taken down, and asks the other to follow.
        CLOSING = 5,
        /// This end is down, and holds nothing of the other any more.
        CLOSED = 6,
        /// Being changed while in use.
        RECONFIGURING = 7,
        /// A change of the device's configuration is done.
        RECONFIGURED = 8,
    }
}

impl XenbusState {
    /// Reads the value of a `state` node. What is no number is [`Self::UNKNOWN`].
    pub fn from_ascii(value: &[u8]) -> Self {
        let text = core::str::from_utf8(value).unwrap_or("");
        text.parse().map_or(Self::UNKNOWN, Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_a_decimal_number() {
        assert_eq!(XenbusState::from_ascii(b"4"), XenbusState::CONNECTED);
        assert_eq!(XenbusState::from_ascii(b"77"), XenbusState(77));
        for nothing in [&b""[..], b"x", b"4 ", b"-1", b"4\0", b"99999999999", b"\xff"] {
            assert_eq!(XenbusState::from_ascii(nothing), XenbusState::UNKNOWN);
        }
    }
}
