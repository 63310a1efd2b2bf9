//! The thread that writes what domains say to stdout.
//!
//! Each domain has a queue of bounded length. A domain whose queue is full waits for room; nobody else does, and no lock is
//! held while something is written. So a reader who is slow, or has stopped to read, costs those domains that go on
//! writing, and only them: the others run, end and are told of, and the user can leave.

use super::marked::MarkedLines;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of a domain that wait to be written at most.
pub const CAPACITY: usize = 64 << 10;
/// Bytes that are written at a time.
const CHUNK: usize = 4096;
/// Bytes of what a domain said last that are kept.
const LAST: usize = 4096;
/// Messages that wait for an open line at most.
const MESSAGES: usize = 256;
/// How long output is still written once the user has left.
const PARTING: Duration = Duration::from_secs(1);

/// How what domains say is written.
pub enum Paper<W> {
    /// What the only domain says, as it is.
    Plain(W),
    /// What several say, in marked lines.
    Marked(MarkedLines<W>),
}

/// What is called when something has happened to a domain's output.
pub type Hook = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Queue {
    bytes: VecDeque<u8>,
    /// What it said last in this life, written or not.
    last: VecDeque<u8>,
    /// After these bytes the domain pauses.
    pauses: bool,
    /// After these bytes the domain says no more.
    ends: bool,
    /// Some of it is being written.
    busy: bool,
    /// Called before the first bytes of a life are written.
    first: Option<Hook>,
    /// Called when there is room again.
    room: Option<Arc<Hook>>,
}

impl Queue {
    fn keep_last(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(LAST);
        self.last.extend(bytes.get(from..).unwrap_or_default());
        self.last.drain(..self.last.len().saturating_sub(LAST));
    }

    fn has_work(&self) -> bool {
        !self.bytes.is_empty() || self.pauses || self.ends
    }
}

#[derive(Default)]
struct State {
    queues: Vec<Queue>,
    messages: VecDeque<Box<dyn FnOnce() + Send>>,
    /// The domain whose turn it is.
    next: usize,
    /// Nothing can be written any more; the error was told.
    failed: bool,
    /// When what is left is dropped.
    until: Option<Instant>,
    dropped: u64,
}

impl State {
    /// Whether what comes now is dropped.
    fn drops(&self) -> bool {
        self.failed || self.until.is_some_and(|until| until <= Instant::now())
    }

    fn free(&self, who: usize) -> usize {
        let waiting = self.queues.get(who).map_or(0, |queue| queue.bytes.len());
        CAPACITY.saturating_sub(waiting)
    }

    /// Takes as many bytes as there is room for.
    fn take(&mut self, who: usize, bytes: &[u8]) -> usize {
        let drops = self.drops();
        let length = if drops { bytes.len() } else { bytes.len().min(self.free(who)) };
        let bytes = bytes.get(..length).unwrap_or(bytes);
        if drops {
            self.dropped = self.dropped.saturating_add(length as u64);
        }
        if let Some(queue) = self.queues.get_mut(who) {
            queue.keep_last(bytes);
            if !drops {
                queue.bytes.extend(bytes);
            }
        }
        length
    }
}

/// What the thread that writes does next.
enum Work {
    Message(Box<dyn FnOnce() + Send>),
    Write { who: usize, first: Option<Hook>, bytes: Vec<u8>, pauses: bool, ends: bool },
}

/// The domains' way to stdout.
pub struct Printer {
    state: Mutex<State>,
    changed: Condvar,
}

impl fmt::Debug for Printer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Printer")
    }
}

impl Printer {
    /// A printer for so many domains, whose thread runs [`Self::print`].
    pub fn new(domains: usize) -> Self {
        let queues = (0..domains).map(|_| Queue::default()).collect();
        Self { state: Mutex::new(State { queues, ..State::default() }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A domain's life begins: `first` is called before its first words are written, `room` when its queue, which was
    /// full, is so no more.
    pub fn begin(&self, who: usize, first: Hook, room: Hook) {
        if let Some(queue) = self.state().queues.get_mut(who) {
            (queue.first, queue.room) = (Some(first), Some(Arc::new(room)));
            queue.last.clear();
        }
    }

    /// The last bytes that a domain said in this life, 4096 at most, from the start of a line on if there is one.
    pub fn last(&self, who: usize) -> Vec<u8> {
        let last = self.state().queues.get(who).map(|queue| queue.last.clone()).unwrap_or_default();
        let is_cut = last.len() == LAST;
        let start =
            last.iter().position(|&byte| is_cut && byte == b'\n').map_or(0, |at| at.saturating_add(1));
        last.into_iter().skip(start).collect()
    }

    /// A domain says something. Takes what there is room for, and returns how many bytes that was.
    pub fn offer(&self, who: usize, bytes: &[u8]) -> usize {
        let taken = self.state().take(who, bytes);
        self.changed.notify_all();
        taken
    }

    /// A domain says something, and waits until there is room for it.
    pub fn say(&self, who: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut state = self.wait_while(None, |state| state.free(who) == 0);
            let taken = state.take(who, bytes);
            drop(state);
            self.changed.notify_all();
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Whether a domain could say something now.
    pub fn has_room(&self, who: usize) -> bool {
        let state = self.state();
        state.drops() || state.free(who) != 0
    }

    /// A domain pauses, after what it said so far.
    pub fn pause(&self, who: usize) {
        self.mark(who, |queue| queue.pauses = true);
    }

    /// A domain has said its last.
    pub fn end(&self, who: usize) {
        self.mark(who, |queue| queue.ends = true);
    }

    fn mark(&self, who: usize, mark: impl FnOnce(&mut Queue)) {
        if let Some(queue) = self.state().queues.get_mut(who) {
            mark(queue);
        }
        self.changed.notify_all();
    }

    /// Somebody else has something to write to the same terminal. It is dropped where too much waits already.
    pub fn interrupt(&self, write: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.messages.len() < MESSAGES {
            state.messages.push_back(Box::new(write));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The user leaves: what is not written soon is dropped.
    pub fn leave(&self) {
        let mut state = self.state();
        let until = Instant::now().checked_add(PARTING);
        state.until = state.until.or(until);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until everything that a domain said is written, but no longer than `limit`.
    pub fn wait_for(&self, who: usize, limit: Duration) {
        let until = Instant::now().checked_add(limit);
        drop(self.wait_while(until, |state| {
            state.queues.get(who).is_some_and(|queue| queue.busy || queue.has_work())
        }));
    }

    /// Waits until everything is written, or the user has left. How many bytes were dropped for that.
    pub fn finish(&self) -> u64 {
        let busy = |queue: &Queue| queue.busy || queue.has_work();
        let state =
            self.wait_while(None, |state| state.queues.iter().any(busy) || !state.messages.is_empty());
        let left = state.queues.iter().map(|queue| queue.bytes.len() as u64).sum();
        if state.failed { 0 } else { state.dropped.saturating_add(left) }
    }

    /// Waits while `waits` says so, but no longer than until `limit`, or than what comes is not dropped anyway.
    fn wait_while(&self, limit: Option<Instant>, waits: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let until = [limit, state.until].into_iter().flatten().min();
            if state.failed || until.is_some_and(|until| until <= now) || !waits(&state) {
                return state;
            }
            let left = until.map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(now));
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What the thread does: writes what comes, for ever, or until it fails. `failed` is called then.
    pub fn print<W: Write>(&self, mut paper: Paper<W>, failed: impl FnOnce(&io::Error)) {
        loop {
            let work = self.next();
            // The lock is not held meanwhile.
            let (who, written) = match work {
                Work::Message(write) => (None, paper.interrupted_by(write)),
                Work::Write { who, first, bytes, pauses, ends } => {
                    first.into_iter().for_each(|first| first());
                    (Some(who), paper.write(who, &bytes, pauses, ends))
                }
            };
            let room = self.written(who, written.is_err());
            room.into_iter().for_each(|room| room());
            if let Err(error) = written {
                return failed(&error);
            }
        }
    }

    /// Waits for the next work: a message, else output of the next domain that has any.
    fn next(&self) -> Work {
        let mut state = self.state();
        loop {
            if let Some(write) = state.messages.pop_front() {
                return Work::Message(write);
            }
            let count = state.queues.len();
            let order = (0..count).cycle().skip(state.next).take(count);
            let ready = order.into_iter().find(|&who| state.queues.get(who).is_some_and(Queue::has_work));
            if let Some((who, queue)) = ready.and_then(|who| Some((who, state.queues.get_mut(who)?))) {
                let length = queue.bytes.len().min(CHUNK);
                let bytes: Vec<u8> = queue.bytes.drain(..length).collect();
                queue.busy = true;
                let all = queue.bytes.is_empty();
                let first = if bytes.is_empty() { None } else { queue.first.take() };
                let pauses = all && std::mem::take(&mut queue.pauses);
                let ends = all && std::mem::take(&mut queue.ends);
                state.next = who.saturating_add(1).checked_rem(count).unwrap_or(0);
                drop(state);
                self.changed.notify_all();
                return Work::Write { who, first, bytes, pauses, ends };
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Something was written, or could not be. Who is to be told that there is room.
    fn written(&self, who: Option<usize>, failed: bool) -> Vec<Arc<Hook>> {
        let mut state = self.state();
        state.failed |= failed;
        let queue = who.and_then(|who| state.queues.get_mut(who));
        let room = queue.and_then(|queue| {
            queue.busy = false;
            queue.room.clone()
        });
        let everybody = state.queues.iter().filter_map(|queue| queue.room.clone());
        let told = if state.failed { everybody.collect() } else { room.into_iter().collect() };
        drop(state);
        self.changed.notify_all();
        told
    }
}

/// This process's stdout, without a buffer, and without a lock that somebody could wait for. One that was made
/// non-blocking by whoever shares it is waited for all the same.
pub struct Stdout(io::Stdout);

impl Stdout {
    /// A handle on this process's stdout.
    pub fn new() -> Self {
        Self(io::stdout())
    }

    fn wait(&self) {
        // Interrupted or not: the write is tried again.
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None);
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                Err(Errno::AGAIN) => self.wait(),
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Paper<W> {
    fn write(&mut self, who: usize, bytes: &[u8], pauses: bool, ends: bool) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.write_all(bytes).and_then(|()| out.flush())?,
            Self::Marked(lines) => {
                if !bytes.is_empty() {
                    lines.say(who, bytes)?;
                }
                if ends {
                    lines.end(who)?;
                }
                if pauses {
                    lines.pause(who)?;
                }
            }
        }
        Ok(())
    }

    fn interrupted_by(&mut self, write: impl FnOnce()) -> io::Result<()> {
        match self {
            Self::Plain(_) => write(),
            Self::Marked(lines) => lines.interrupted_by(write)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Takes what is written whenever it is let.
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

    /// A printer whose reader has stopped, what lets it take something, and what it took.
    fn stopped(domains: usize) -> (Arc<Printer>, Sender<()>, Receiver<Vec<u8>>) {
        let printer = Arc::new(Printer::new(domains));
        let ((open, gate), (sender, written)) = (channel(), channel());
        let printing = Arc::clone(&printer);
        std::thread::spawn(move || printing.print(Paper::Plain(Gate(gate, sender)), |_| {}));
        (printer, open, written)
    }

    /// What was said last is kept whether or not somebody reads it, and is forgotten when the next life begins.
    #[test]
    fn the_last_words_of_a_life_are_kept() {
        let printer = Printer::new(2);
        let begin = || printer.begin(1, Box::new(|| {}), Box::new(|| {}));
        begin();
        assert_eq!(printer.offer(1, &vec![b'a'; CAPACITY]), CAPACITY);
        assert_eq!(printer.last(1), vec![b'a'; LAST]);
        assert_eq!((printer.offer(1, b"is not taken"), printer.last(1)), (0, vec![b'a'; LAST]));
        printer.leave();
        printer.state().until = Some(Instant::now());
        assert_eq!(printer.offer(1, b"dropped"), 7);
        assert!(printer.last(1).ends_with(b"aadropped") && printer.last(1).len() == LAST);
        assert_eq!(printer.offer(1, b"end\nwhole\n"), 10);
        assert_eq!(printer.last(1), b"whole\n", "what is cut off is no line");
        assert_eq!(printer.last(0), b"");
        begin();
        assert_eq!(printer.last(1), b"");
    }

    /// A sink that blocks costs the one that writes more than its queue holds, and nobody else.
    #[test]
    fn a_reader_who_has_stopped_costs_the_flooder_alone() {
        let (printer, open, written) = stopped(2);
        let woken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&woken);
        let room: Hook = Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        printer.begin(0, Box::new(|| {}), room);
        assert_eq!(printer.offer(0, b"first"), 5);
        while !printer.state().queues[0].busy {
            std::thread::yield_now();
        }
        // The thread is stuck with that; the queue takes what it holds.
        let flood = vec![b'f'; 2 * CAPACITY];
        assert_eq!((printer.offer(0, &flood), printer.has_room(0)), (CAPACITY, false));
        assert_eq!(printer.offer(0, b"more"), 0);
        assert!(printer.has_room(1));
        assert_eq!(printer.offer(1, b"neighbour"), 9, "its own queue is empty");
        printer.wait_for(1, Duration::from_millis(1));
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        for expected in [&b"first"[..], b"neighbour"] {
            open.send(()).unwrap();
            assert_eq!(written.recv().unwrap(), expected, "its turn comes after one chunk of the other");
        }
        printer.say(0, b"there is room again");
        let (start, before) = (Instant::now(), woken.load(Ordering::SeqCst));
        open.send(()).unwrap();
        assert!(!written.recv().unwrap().is_empty());
        while woken.load(Ordering::SeqCst) == before {
            assert!(start.elapsed() < Duration::from_secs(20), "nobody is told that there is room");
            std::thread::yield_now();
        }
    }

    #[test]
    fn whoever_leaves_does_not_wait_for_a_reader() {
        let (printer, open, _written) = stopped(1);
        let flood = vec![b'f'; 2 * CAPACITY];
        std::thread::scope(|scope| {
            scope.spawn(|| printer.say(0, &flood));
            while printer.has_room(0) {
                std::thread::yield_now();
            }
            printer.leave();
            assert!(printer.finish() > 0, "something is lost, and told");
        });
        assert!(printer.has_room(0), "it is dropped");
        drop(open);
    }

    #[test]
    fn everything_is_written_before_the_end() {
        let (printer, open, written) = stopped(1);
        let text: Vec<u8> = (0..3 * CAPACITY).map(|at| at as u8).collect();
        (0..=3 * CAPACITY / CHUNK).for_each(|_| open.send(()).unwrap());
        printer.say(0, &text);
        // Chunks may be short, and each takes a turn of the gate.
        (0..3 * CAPACITY).for_each(|_| open.send(()).unwrap());
        assert_eq!(printer.finish(), 0);
        assert_eq!(written.try_iter().flatten().collect::<Vec<_>>(), text);
    }

    #[test]
    fn a_sink_that_fails_takes_everything_and_says_so_once() {
        let (printer, open, _) = stopped(1);
        open.send(()).unwrap();
        drop(open);
        printer.say(0, &[0; 4 * CAPACITY]);
        assert_eq!(printer.offer(0, b"more"), 4);
        printer.finish();
    }
}
