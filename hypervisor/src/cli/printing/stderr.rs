//! The thread that writes messages to stderr: whoever has one, a pcpu's thread in the end, does not wait for whoever reads
//! it. What comes faster than it is read is dropped, and counted.
//!
//! Before the thread is started, messages are written at once.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that wait to be written at most.
const CAPACITY: usize = 256 << 10;

#[derive(Default)]
struct State {
    started: bool,
    messages: VecDeque<Vec<u8>>,
    /// Their bytes, and those of the one that is being written.
    bytes: usize,
    dropped: u64,
}

/// Messages on their way to a writer.
#[derive(Default)]
struct Messages {
    state: Mutex<State>,
    changed: Condvar,
}

static STDERR: Messages = Messages::new();

/// Starts the thread that writes messages.
///
/// # Errors
/// The host's, where it starts no thread. Messages are written at once then.
pub fn start() -> io::Result<()> {
    STDERR.state().started = true;
    let body = || STDERR.write_all(&mut io::stderr());
    let started = std::thread::Builder::new().name("stderr".into()).spawn(body).map(drop);
    started.inspect_err(|_| STDERR.state().started = false)
}

/// Writes a message as it is. What cannot be written is nobody's loss.
pub fn write(message: &[u8]) {
    if !STDERR.put(message) {
        let _ = io::stderr().write_all(message);
    }
}

/// Waits until everything is written, but no longer than `limit`.
pub fn settle(limit: Duration) {
    STDERR.settle(limit);
}

/// Writes the log there, a line at a time.
pub struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Messages {
    const fn new() -> Self {
        let state = State { started: false, messages: VecDeque::new(), bytes: 0, dropped: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message, or drops it where too much waits already; false where there is no thread to write it.
    fn put(&self, message: &[u8]) -> bool {
        let mut state = self.state();
        if !state.started {
            return false;
        }
        let bytes = state.bytes.saturating_add(message.len());
        if bytes > CAPACITY {
            state.dropped = state.dropped.saturating_add(1);
        } else {
            state.bytes = bytes;
            state.messages.push_back(message.to_vec());
            self.changed.notify_all();
        }
        true
    }

    fn settle(&self, limit: Duration) {
        let waits = |state: &mut State| state.started && (state.bytes != 0 || state.dropped != 0);
        drop(self.changed.wait_timeout_while(self.state(), limit, waits));
    }

    /// Writes messages as they come, for ever.
    fn write_all(&self, to: &mut impl Write) {
        loop {
            let message = self.next();
            // The lock is not held meanwhile.
            let _ = to.write_all(&message);
            let mut state = self.state();
            state.bytes = state.bytes.saturating_sub(message.len());
            self.changed.notify_all();
        }
    }

    /// The next message. What was dropped is told once there is room again.
    fn next(&self) -> Vec<u8> {
        let idle = |state: &mut State| state.messages.is_empty() && state.dropped == 0;
        let waited = self.changed.wait_while(self.state(), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = state.messages.pop_front() {
            return message;
        }
        let dropped = std::mem::take(&mut state.dropped);
        let message = format!("paravane: {dropped} messages were dropped, since nobody read them in time\n");
        state.bytes = state.bytes.saturating_add(message.len());
        message.into_bytes()
    }
}

/// Tells whether something that may happen often is to be told: the first few times, and then once in a while.
#[derive(Debug)]
pub struct RateLimit {
    state: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    /// How often it may be told before [`INTERVAL`] is over.
    left: u32,
    since: Instant,
    untold: u64,
}

/// How often something is told within [`INTERVAL`].
const BURST: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(10);

impl Default for RateLimit {
    fn default() -> Self {
        Self { state: Mutex::new(Counted { left: BURST, since: Instant::now(), untold: 0 }) }
    }
}

impl RateLimit {
    /// It has happened once more. What to add to the message; none where it is not to be told.
    pub fn happened(&self) -> Option<String> {
        self.happened_at(Instant::now())
    }

    fn happened_at(&self, now: Instant) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.since) >= INTERVAL {
            (state.left, state.since) = (BURST, now);
        }
        let Some(left) = state.left.checked_sub(1) else {
            state.untold = state.untold.saturating_add(1);
            return None;
        };
        state.left = left;
        Some(match (std::mem::take(&mut state.untold), left) {
            (0, 0) => "; what follows within 10 s is counted only".into(),
            (0, _) => String::new(),
            (untold, _) => format!("; {untold} more before were not told"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Takes a message whenever it is let.
    struct Gate(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_is_dropped_is_counted() {
        let messages = Arc::new(Messages::default());
        assert!(!messages.put(b"early"), "there is no thread yet");
        messages.state().started = true;
        let ((open, gate), (sender, written)) = (channel(), channel());
        let writing = Arc::clone(&messages);
        std::thread::spawn(move || writing.write_all(&mut Gate(gate, sender)));
        let message = vec![b'x'; CAPACITY / 4];
        (0..9).for_each(|_| assert!(messages.put(&message)));
        messages.settle(Duration::from_millis(1));
        assert_eq!(messages.state().dropped, 5);
        (0..5).for_each(|_| open.send(()).unwrap());
        (0..4).for_each(|_| assert_eq!(written.recv().unwrap(), message));
        let told = String::from_utf8(written.recv().unwrap()).unwrap();
        assert_eq!(told, "paravane: 5 messages were dropped, since nobody read them in time\n");
        messages.settle(Duration::from_secs(3600));
    }

    #[test]
    fn what_happens_often_is_told_now_and_then_and_counted() {
        let (limit, start) = (RateLimit::default(), Instant::now());
        let told: Vec<_> = (0..100).filter_map(|_| limit.happened_at(start)).collect();
        assert_eq!(told.len(), BURST as usize);
        assert!(told[4].contains("counted only"), "{told:?}");
        let next = limit.happened_at(start + 2 * INTERVAL);
        assert_eq!(next.as_deref(), Some("; 95 more before were not told"));
        assert_eq!(limit.happened_at(start + 2 * INTERVAL).as_deref(), Some(""));
    }
}
