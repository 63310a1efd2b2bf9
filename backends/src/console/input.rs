//! What was typed and the guest has not taken yet.

use crate::bell::Bell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that are held for a guest that is slow to take them; whoever has more waits. A text that somebody pastes has
/// room, so that keys behind it are still seen.
pub const CAPACITY: usize = 1 << 20;

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// What says that nothing comes behind these bytes, and whether the guest has got it.
    end: Option<(u8, bool)>,
    /// Nobody takes anything any more.
    closed: bool,
}

/// A queue of bytes between whoever reads the host's input and a console, which may come and go.
#[derive(Debug, Default)]
pub struct Input {
    state: Mutex<State>,
    room: Condvar,
    bell: Arc<Bell>,
}

impl Input {
    /// What wakes the console that takes from here.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends bytes, waiting for room as long as it takes, or until it is [closed](Self::close).
    pub fn push(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let full = |state: &mut State| state.bytes.len() >= CAPACITY && !state.closed;
            let mut state = self.room.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                return;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CAPACITY.saturating_sub(state.bytes.len())));
            state.bytes.extend(now);
            bytes = later;
            drop(state);
            self.bell.ring();
        }
    }

    /// Nothing comes any more: behind everything else the guest gets `mark`. Waits for nothing.
    pub fn end(&self, mark: u8) {
        self.state().end = Some((mark, false));
        self.bell.ring();
    }

    /// A new guest takes from here, and gets what was not taken; that nothing more comes it has not heard. Waits for
    /// nothing.
    pub fn restart(&self) {
        if let Some((_, told)) = &mut self.state().end {
            *told = false;
        }
        self.bell.ring();
    }

    /// No guest takes anything any more, and nobody waits for it.
    pub fn close(&self) {
        self.state().closed = true;
        self.room.notify_all();
    }

    /// Moves as many bytes as there are into `into`, and returns how many.
    pub fn take(&self, into: &mut [u8]) -> usize {
        let mut state = self.state();
        let mut length = state.bytes.len().min(into.len());
        for (byte, taken) in into.iter_mut().zip(state.bytes.drain(..length)) {
            *byte = taken;
        }
        if let (true, Some((mark, told @ false)), Some(place)) =
            (state.bytes.is_empty(), &mut state.end, into.get_mut(length))
        {
            (*place, *told) = (*mark, true);
            length = length.saturating_add(1);
        }
        drop(state);
        self.room.notify_all();
        length
    }
}
