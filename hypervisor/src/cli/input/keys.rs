//! What keys mean: most are the guest's.

/// Ctrl-]: the user leaves the session.
const LEAVE: u8 = 0x1d;
/// Ctrl-A: with several domains, the next key says which of them is typed to. As in `screen` and QEMU.
const PREFIX: u8 = 0x01;

/// What a key does to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is typed to the guest.
    Type(u8),
    /// Keys go to the domain of that index from now on.
    To(usize),
    /// Keys go to the next domain from now on.
    Next,
    /// The user leaves the session.
    Leave,
}

/// Reads keys one at a time.
#[derive(Debug)]
pub struct Keys {
    /// There are several domains.
    switches: bool,
    /// The last key was the prefix.
    prefixed: bool,
}

impl Keys {
    /// `switches`: there are several domains to type to.
    pub fn new(switches: bool) -> Self {
        Self { switches, prefixed: false }
    }

    /// A key is pressed; none where it does nothing yet, or nothing at all.
    pub fn press(&mut self, key: u8) -> Option<Action> {
        if key == LEAVE {
            return Some(Action::Leave);
        }
        if !std::mem::take(&mut self.prefixed) {
            self.prefixed = self.switches && key == PREFIX;
            return (!self.prefixed).then_some(Action::Type(key));
        }
        match key {
            b'1'..=b'9' => Some(Action::To(usize::from(key.saturating_sub(b'1')))),
            b'n' | b'N' => Some(Action::Next),
            b'a' | b'A' | PREFIX => Some(Action::Type(PREFIX)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(switches: bool, keys: &[u8]) -> Vec<Action> {
        let mut reader = Keys::new(switches);
        keys.iter().filter_map(|&key| reader.press(key)).collect()
    }

    #[test]
    fn a_single_guest_gets_all_keys_but_one() {
        use Action::{Leave, Type};
        assert_eq!(pressed(false, b"a\x01n\x03\x1d"), [Type(b'a'), Type(1), Type(b'n'), Type(3), Leave]);
    }

    #[test]
    fn the_prefix_switches_among_several() {
        use Action::{Leave, Next, To, Type};
        assert_eq!(pressed(true, b"x\x012\x01nn"), [Type(b'x'), To(1), Next, Type(b'n')]);
        assert_eq!(pressed(true, b"\x01a\x01\x01"), [Type(1), Type(1)]);
        assert_eq!(pressed(true, b"\x010\x01zq"), [Type(b'q')], "what means nothing is dropped");
        assert_eq!(pressed(true, b"\x01\x1d"), [Leave]);
    }
}
