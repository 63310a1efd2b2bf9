//! What the user types, on its way to the guests.

use super::input_focus::InputFocus;
use super::keys::{Action, Keys};
use std::io::{self, Read};
use std::sync::Arc;

/// What stdin is, and whether it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Nobody's business: all domains have their commands.
    Unread,
    /// A terminal: keys are read as they are pressed.
    Terminal,
    /// Something else, with an end.
    Pipe,
}

/// What keys do beyond being typed.
pub trait Hearer: Send {
    /// Keys go to another domain from now on.
    fn turned_to(&self, index: usize);

    /// The user wants to leave.
    fn leave(&self);
}

/// Starts to read stdin, if it is to be read at all.
///
/// The thread sleeps in a read that nothing interrupts, and ends with the process.
pub fn start(stdin: Stdin, focus: Arc<InputFocus>, hearer: impl Hearer + 'static) -> io::Result<()> {
    let read: Box<dyn FnOnce() + Send> = match stdin {
        Stdin::Unread => return Ok(()),
        Stdin::Terminal => Box::new(move || type_keys(io::stdin(), &focus, &hearer)),
        Stdin::Pipe => Box::new(move || pipe(io::stdin(), &focus)),
    };
    std::thread::Builder::new().name("keyboard".into()).spawn(read).map(drop)
}

/// Hands keys over up to the one that leaves, or until the terminal is gone.
fn type_keys(mut keyboard: impl Read, focus: &InputFocus, hearer: &dyn Hearer) {
    let mut reader = Keys::new(focus.len() > 1);
    let mut keys = [0; 256];
    while let Some(keys) = read(&mut keyboard, &mut keys) {
        let mut typed = Vec::with_capacity(keys.len());
        for action in keys.iter().filter_map(|&key| reader.press(key)) {
            if let Action::Type(key) = action {
                typed.push(key);
                continue;
            }
            focus.type_keys(&std::mem::take(&mut typed));
            if action == Action::Leave {
                return hearer.leave();
            }
            turn(action, focus, hearer);
        }
        focus.type_keys(&typed);
    }
    hearer.leave();
}

fn turn(action: Action, focus: &InputFocus, hearer: &dyn Hearer) {
    let turned = match action {
        Action::To(index) => Some(index).filter(|&index| focus.turn_to(index)),
        Action::Next => focus.turn_to_next(),
        Action::Type(_) | Action::Leave => None,
    };
    if let Some(index) = turned {
        hearer.turned_to(index);
    }
}

/// Hands everything over to the domain that is typed to first, and says where it ends.
fn pipe(mut stdin: impl Read, focus: &InputFocus) {
    let first = focus.current();
    focus.end_others();
    let input = focus.input(first);
    let mut bytes = [0; 4096];
    while let Some(bytes) = read(&mut stdin, &mut bytes) {
        input.push(bytes);
    }
    focus.end(first);
}

/// The next bytes; none at the end, and where reading fails.
fn read<'a>(from: &mut impl Read, into: &'a mut [u8]) -> Option<&'a [u8]> {
    loop {
        match from.read(into) {
            Ok(0) => return None,
            Ok(length) => return into.get(..length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::input::input_focus::Takes;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Option<usize>>>);

    impl Hearer for Heard {
        fn turned_to(&self, index: usize) {
            self.0.lock().expect("no panic").push(Some(index));
        }

        fn leave(&self) {
            self.0.lock().expect("no panic").push(None);
        }
    }

    fn taken(focus: &InputFocus, index: usize) -> Vec<u8> {
        let mut bytes = [0; 64];
        let length = focus.input(index).take(&mut bytes);
        bytes[..length].to_vec()
    }

    fn heard(focus: &InputFocus, keys: &[u8]) -> Vec<Option<usize>> {
        let heard = Heard::default();
        type_keys(keys, focus, &heard);
        heard.0.into_inner().expect("no panic")
    }

    #[test]
    fn keys_go_over_up_to_the_one_that_leaves() {
        let focus = InputFocus::new([Takes::KeysAndEnd]);
        assert_eq!(heard(&focus, b"abc\x1ddef"), [None]);
        assert_eq!(taken(&focus, 0), b"abc");
        assert_eq!(heard(&focus, b"\x03\x04\x01"), [None], "a terminal that is gone leaves, too");
        assert_eq!(taken(&focus, 0), b"\x03\x04\x01", "the guest's affair");
    }

    #[test]
    fn keys_go_to_whom_the_user_turns() {
        let focus = InputFocus::new([Takes::KeysAndEnd; 2]);
        assert_eq!(heard(&focus, b"one\x012two\x01n1\x019\x1d"), [Some(1), Some(0), None]);
        assert_eq!([taken(&focus, 0), taken(&focus, 1)], [b"one1".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn the_end_of_a_pipe_is_told() {
        let focus = InputFocus::new([Takes::KeysAndEnd; 2]);
        pipe(&b"help\n"[..], &focus);
        assert_eq!([taken(&focus, 0), taken(&focus, 1)], [b"help\n\x04".to_vec(), b"\x04".to_vec()]);
    }
}
