//! The desk at which somebody types to domains, one at a time.

use backends::console::Input;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Ctrl-D: what the shell gets at the end of a stdin that is no terminal.
const END: u8 = 0x04;

/// How long keys wait for a guest that has no room for them. Then they are lost: the key that leaves may be next.
const PATIENCE: Duration = Duration::from_millis(200);

/// A domain, as it is typed to.
#[derive(Debug)]
struct Seat {
    input: Arc<Input>,
    /// It takes input: nobody gave it its commands.
    listens: bool,
    /// Its input has come to its end.
    at_end: AtomicBool,
    /// The domain has ended.
    gone: AtomicBool,
}

/// The domains, and which of them is typed to.
#[derive(Debug)]
pub struct Desk {
    seats: Vec<Seat>,
    current: Mutex<usize>,
}

impl Desk {
    /// A desk for domains that listen, or do not. The first that does is typed to first.
    pub fn new(listen: impl IntoIterator<Item = bool>) -> Self {
        let seat = |listens| Seat {
            input: Arc::default(),
            listens,
            at_end: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        };
        let seats: Vec<_> = listen.into_iter().map(seat).collect();
        let first = seats.iter().position(|seat| seat.listens).unwrap_or(0);
        Self { seats, current: Mutex::new(first) }
    }

    /// The input of a domain.
    pub fn input(&self, index: usize) -> Arc<Input> {
        self.seats.get(index).map(|seat| Arc::clone(&seat.input)).unwrap_or_default()
    }

    /// How many domains there are.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Which domain is typed to.
    pub fn current(&self) -> usize {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Types to the current domain.
    pub fn type_keys(&self, keys: &[u8]) {
        if let Some(seat) = self.seats.get(self.current()) {
            seat.input.offer(keys, PATIENCE);
        }
    }

    /// From now on, `index` is typed to. False where it is none, or has ended.
    pub fn turn_to(&self, index: usize) -> bool {
        let there = self.seats.get(index).is_some_and(|seat| !seat.gone.load(Ordering::SeqCst));
        if there {
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = index;
        }
        there
    }

    /// From now on, the next domain that has not ended is typed to; which one that is, if it is another.
    pub fn turn_to_next(&self) -> Option<usize> {
        let others = self.seats.len().saturating_sub(1);
        let behind = (0..self.seats.len()).cycle().skip(self.current()).skip(1);
        behind.take(others).find(|&next| self.turn_to(next))
    }

    /// A domain has ended; to which one is turned, if it was the current one.
    pub fn gone(&self, index: usize) -> Option<usize> {
        if let Some(seat) = self.seats.get(index) {
            seat.gone.store(true, Ordering::SeqCst);
        }
        if self.current() == index { self.turn_to_next() } else { None }
    }

    /// The input of a pipe goes to the current domain, and the others find theirs at its end.
    pub fn end_others(&self) {
        let current = self.current();
        for (_, seat) in self.seats.iter().enumerate().filter(|&(index, _)| index != current) {
            seat.end();
        }
    }

    /// The input of `index` is at its end.
    pub fn end(&self, index: usize) {
        if let Some(seat) = self.seats.get(index) {
            seat.end();
        }
    }

    /// A new guest has not heard that its input is at its end.
    pub fn guest_restarts(&self, index: usize) {
        if let Some(seat) = self.seats.get(index).filter(|seat| seat.at_end.load(Ordering::SeqCst)) {
            seat.input.push(&[END]);
        }
    }
}

impl Seat {
    fn end(&self) {
        if self.listens {
            self.at_end.store(true, Ordering::SeqCst);
            self.input.push(&[END]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(desk: &Desk, index: usize) -> Vec<u8> {
        let mut bytes = [0; 64];
        let length = desk.input(index).take(&mut bytes);
        bytes[..length].to_vec()
    }

    #[test]
    fn the_first_that_listens_is_typed_to_until_another_is_chosen() {
        let desk = Desk::new([false, true, true]);
        desk.type_keys(b"a");
        assert!(desk.turn_to(2) && !desk.turn_to(3));
        desk.type_keys(b"b");
        assert_eq!(desk.turn_to_next(), Some(0));
        desk.type_keys(b"c");
        assert_eq!([taken(&desk, 0), taken(&desk, 1), taken(&desk, 2)], [b"c", b"a", b"b"]);
    }

    #[test]
    fn who_has_ended_is_typed_to_no_more() {
        let desk = Desk::new([true; 3]);
        assert_eq!(desk.gone(1), None);
        assert!(!desk.turn_to(1));
        assert_eq!(desk.gone(0), Some(2));
        assert_eq!((desk.gone(2), desk.turn_to_next()), (None, None));
    }

    #[test]
    fn an_end_of_input_is_told_to_each_life() {
        let desk = Desk::new([true, false, true]);
        desk.end_others();
        desk.guest_restarts(2);
        desk.guest_restarts(0);
        assert_eq!([taken(&desk, 0), taken(&desk, 1), taken(&desk, 2)], [&b""[..], b"", b"\x04\x04"]);
        desk.end(0);
        assert_eq!(taken(&desk, 0), b"\x04");
    }
}
