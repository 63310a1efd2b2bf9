//! Which of the domains gets what is typed.

use backends::console::Input;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ctrl-D: what the shell gets at the end of a stdin that is no terminal.
const END: u8 = 0x04;

/// What a domain takes of what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: it was given its commands.
    Nothing,
    /// Keys, as a kernel that is not the bundled one: to a console, the end of stdin is nothing that happens.
    Keys,
    /// Keys, and where stdin is no terminal, that it is at its end.
    KeysAndEnd,
}

/// A domain, as it is typed to.
#[derive(Debug)]
struct Target {
    input: Arc<Input>,
    takes: Takes,
    /// Whether the domain has ended: nothing is typed to it any more.
    gone: AtomicBool,
}

/// The domains, and which of them is typed to.
#[derive(Debug)]
pub struct InputFocus {
    targets: Vec<Target>,
    current: Mutex<usize>,
}

impl InputFocus {
    /// For domains that take this. The first that takes keys is typed to first.
    pub fn new(takes: impl IntoIterator<Item = Takes>) -> Self {
        let target = |takes| Target { input: Arc::default(), takes, gone: AtomicBool::new(false) };
        let targets: Vec<_> = takes.into_iter().map(target).collect();
        let first = targets.iter().position(|target| target.takes != Takes::Nothing).unwrap_or(0);
        Self { targets, current: Mutex::new(first) }
    }

    /// The input of a domain.
    pub fn input(&self, index: usize) -> Arc<Input> {
        self.targets.get(index).map(|target| Arc::clone(&target.input)).unwrap_or_default()
    }

    /// How many domains there are.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Which domain is typed to.
    pub fn current(&self) -> usize {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Types to the current domain. Where it is so slow that it has a whole [`CAPACITY`](backends::console::CAPACITY) to
    /// take, this waits, and with it whoever types: nothing is lost.
    pub fn type_keys(&self, keys: &[u8]) {
        if let Some(target) = self.targets.get(self.current()) {
            target.input.push(keys);
        }
    }

    /// From now on, `index` is typed to. False where it is none, or has ended.
    pub fn turn_to(&self, index: usize) -> bool {
        let there = self.targets.get(index).is_some_and(|target| !target.gone.load(Ordering::SeqCst));
        if there {
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = index;
        }
        there
    }

    /// From now on, the next domain that has not ended is typed to; which one that is, if it is another.
    pub fn turn_to_next(&self) -> Option<usize> {
        let others = self.targets.len().saturating_sub(1);
        let behind = (0..self.targets.len()).cycle().skip(self.current()).skip(1);
        behind.take(others).find(|&next| self.turn_to(next))
    }

    /// A domain has ended; to which one is turned, if it was the current one.
    pub fn gone(&self, index: usize) -> Option<usize> {
        if let Some(target) = self.targets.get(index) {
            target.gone.store(true, Ordering::SeqCst);
            target.input.close();
        }
        if self.current() == index { self.turn_to_next() } else { None }
    }

    /// The input of a pipe goes to the current domain, and the others find theirs at its end.
    pub fn end_others(&self) {
        let current = self.current();
        for (_, target) in self.targets.iter().enumerate().filter(|&(index, _)| index != current) {
            target.end();
        }
    }

    /// The input of `index` is at its end.
    pub fn end(&self, index: usize) {
        if let Some(target) = self.targets.get(index) {
            target.end();
        }
    }

    /// A new guest has not heard that its input is at its end.
    pub fn guest_restarts(&self, index: usize) {
        if let Some(target) = self.targets.get(index) {
            target.input.restart();
        }
    }
}

impl Target {
    fn end(&self) {
        if self.takes == Takes::KeysAndEnd {
            self.input.end(END);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::console::CAPACITY;

    fn taken(focus: &InputFocus, index: usize) -> Vec<u8> {
        let mut bytes = [0; 64];
        let length = focus.input(index).take(&mut bytes);
        bytes[..length].to_vec()
    }

    #[test]
    fn the_first_that_listens_is_typed_to_until_another_is_chosen() {
        let focus = InputFocus::new([Takes::Nothing, Takes::Keys, Takes::KeysAndEnd]);
        focus.type_keys(b"a");
        assert!(focus.turn_to(2) && !focus.turn_to(3));
        focus.type_keys(b"b");
        assert_eq!(focus.turn_to_next(), Some(0));
        focus.type_keys(b"c");
        assert_eq!([taken(&focus, 0), taken(&focus, 1), taken(&focus, 2)], [b"c", b"a", b"b"]);
    }

    #[test]
    fn who_has_ended_is_typed_to_no_more() {
        let focus = InputFocus::new([Takes::KeysAndEnd; 3]);
        assert_eq!(focus.gone(1), None);
        assert!(!focus.turn_to(1));
        assert_eq!(focus.gone(0), Some(2));
        assert_eq!((focus.gone(2), focus.turn_to_next()), (None, None));
    }

    #[test]
    fn an_end_of_input_is_told_to_each_life() {
        let focus = InputFocus::new([Takes::KeysAndEnd, Takes::Nothing, Takes::KeysAndEnd, Takes::Keys]);
        focus.end_others();
        for _ in 0..2 {
            let ends = [0, 1, 2, 3].map(|index| taken(&focus, index));
            assert_eq!(ends, [&b""[..], b"", b"\x04", b""]);
            assert_eq!(taken(&focus, 2), b"", "once");
            focus.guest_restarts(2);
            focus.guest_restarts(0);
        }
        focus.end(0);
        assert_eq!(taken(&focus, 0), b"\x04");
    }

    /// A guest restarts while its input is full to the last byte: whoever starts it again does not wait for it.
    #[test]
    fn a_guest_restarts_with_whatever_waits_for_it() {
        let focus = InputFocus::new([Takes::KeysAndEnd]);
        focus.type_keys(&vec![b'x'; CAPACITY]);
        focus.end(0);
        focus.guest_restarts(0);
        let mut all = vec![0; CAPACITY];
        assert_eq!(focus.input(0).take(&mut all), CAPACITY);
        assert_eq!(taken(&focus, 0), b"\x04");
    }

    /// Whoever types to a guest that sleeps waits once it has too much to take, and loses nothing.
    #[test]
    fn a_guest_that_sleeps_loses_no_key() {
        let focus = InputFocus::new([Takes::KeysAndEnd]);
        let keys: Vec<u8> = (0..CAPACITY + 5000).map(|at| (at % 251) as u8).collect();
        let mut got: Vec<u8> = Vec::new();
        std::thread::scope(|scope| {
            // More at once than it ever has room for, and then in pieces.
            let (at_once, pieces) = keys.split_at(CAPACITY + 1000);
            let typing = scope.spawn(|| {
                focus.type_keys(at_once);
                pieces.chunks(256).for_each(|keys| focus.type_keys(keys));
            });
            loop {
                let (is_over, more) = (typing.is_finished(), taken(&focus, 0));
                got.extend(&more);
                if is_over && more.is_empty() {
                    break;
                }
            }
        });
        assert!(got == keys, "in the order in which they were typed");
        focus.type_keys(&vec![b'x'; CAPACITY]);
        focus.gone(0);
        focus.type_keys(b"nobody waits for one that is gone");
    }
}
