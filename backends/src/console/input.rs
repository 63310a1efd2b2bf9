//! What was typed and the guest has not taken yet.

use crate::bell::Bell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that are held for a guest that is slow to take them; whoever has more waits.
const CAPACITY: usize = 4096;

/// A queue of bytes between whoever reads the host's input and a console, which may come and go.
#[derive(Debug, Default)]
pub struct Input {
    bytes: Mutex<VecDeque<u8>>,
    room: Condvar,
    bell: Arc<Bell>,
}

impl Input {
    /// What wakes the console that takes from here.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    fn bytes(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends bytes, waiting for room as long as it takes.
    pub fn push(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let full = |queue: &mut VecDeque<u8>| queue.len() >= CAPACITY;
            let mut queue = self.room.wait_while(self.bytes(), full).unwrap_or_else(PoisonError::into_inner);
            let (now, later) = bytes.split_at(bytes.len().min(CAPACITY.saturating_sub(queue.len())));
            queue.extend(now);
            bytes = later;
            drop(queue);
            self.bell.ring();
        }
    }

    /// Appends bytes, but waits for room no longer than `limit`; what has found none by then is lost.
    pub fn offer(&self, bytes: &[u8], limit: Duration) {
        let full = |queue: &mut VecDeque<u8>| queue.len().saturating_add(bytes.len()) > CAPACITY;
        let waited = self.room.wait_timeout_while(self.bytes(), limit, full);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        let room = CAPACITY.saturating_sub(queue.len());
        queue.extend(bytes.iter().take(room));
        drop(queue);
        self.bell.ring();
    }

    /// Moves as many bytes as there are into `into`, and returns how many.
    pub fn take(&self, into: &mut [u8]) -> usize {
        let mut queue = self.bytes();
        let length = queue.len().min(into.len());
        for (byte, taken) in into.iter_mut().zip(queue.drain(..length)) {
            *byte = taken;
        }
        drop(queue);
        self.room.notify_all();
        length
    }
}
