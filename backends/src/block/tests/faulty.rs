//! A host whose calls fail, fall short, are interrupted or stall, as a test says.

use crate::block::engine::{Call, Engine, Transfer};
use crate::fake_host::FakePage;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not made, and ends like this.
    Error(Errno),
    /// It moves no more than so many bytes.
    Short(usize),
    /// It ends only when somebody has looked so often for its end.
    Stall(u32),
}

/// What a call was, and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Read(u64),
    Write(u64, Vec<u8>),
    Flush,
    Discard(u64, u64),
    /// The call that was the nth event is done, as it should be.
    Done(usize),
}

pub type Log = Arc<Mutex<Vec<Event>>>;

/// An engine that does what another one does, and worse. It writes down what it is asked for.
pub struct Faulty<E: ?Sized, F> {
    faults: F,
    pub log: Log,
    /// By token: which event the call that is under way was.
    events: Vec<usize>,
    failed: VecDeque<(u32, io::Result<usize>)>,
    stalled: Vec<(u32, u32, Call<FakePage>)>,
    engine: Box<E>,
}

impl<F: FnMut(&Event) -> Option<Fault>> Faulty<dyn Engine<FakePage>, F> {
    /// `faults` says of each call what goes wrong.
    pub fn new(engine: Box<dyn Engine<FakePage>>, log: &Log, faults: F) -> Self {
        let (failed, stalled) = Default::default();
        Self { faults, log: Arc::clone(log), events: vec![0; 512], failed, stalled, engine }
    }

    fn event(call: &Call<FakePage>) -> Event {
        match call {
            Call::Read(transfer) => Event::Read(transfer.offset),
            Call::Write(transfer) => {
                let mut bytes = Vec::new();
                for slice in transfer.buffer.slices(transfer.from).unwrap() {
                    let start = bytes.len();
                    bytes.resize(start + slice.len(), 0);
                    slice.copy_to(&mut bytes[start..]);
                }
                Event::Write(transfer.offset, bytes)
            }
            Call::Flush => Event::Flush,
            Call::Discard { offset, length } => Event::Discard(*offset, *length),
        }
    }

    fn shorten(call: Call<FakePage>, bytes: usize) -> Call<FakePage> {
        let shorten = |transfer: Transfer<FakePage>| {
            let buffer = Arc::new(transfer.buffer.shortened(transfer.from + bytes));
            Transfer { buffer, ..transfer }
        };
        match call {
            Call::Read(transfer) => Call::Read(shorten(transfer)),
            Call::Write(transfer) => Call::Write(shorten(transfer)),
            call => call,
        }
    }

    /// Lets those go on that have stalled for long enough.
    fn unstall(&mut self, patience: u32) {
        let mut stalled = std::mem::take(&mut self.stalled);
        for (_, left, _) in &mut stalled {
            *left = left.saturating_sub(patience);
        }
        for (token, left, call) in stalled {
            match left {
                0 => self.engine.start(token, call),
                _ => self.stalled.push((token, left, call)),
            }
        }
    }
}

impl<F: FnMut(&Event) -> Option<Fault> + Send> Engine<FakePage> for Faulty<dyn Engine<FakePage>, F> {
    fn start(&mut self, token: u32, call: Call<FakePage>) {
        let event = Self::event(&call);
        let fault = (self.faults)(&event);
        let mut log = self.log.lock().unwrap();
        self.events[token as usize] = log.len();
        match (fault, event) {
            // What is written is what the call writes, and not what it was to write.
            (Some(Fault::Short(length)), Event::Write(offset, mut bytes)) => {
                bytes.truncate(length);
                log.push(Event::Write(offset, bytes));
            }
            (_, event) => log.push(event),
        }
        drop(log);
        match fault {
            None => self.engine.start(token, call),
            Some(Fault::Short(bytes)) => self.engine.start(token, Self::shorten(call, bytes)),
            Some(Fault::Error(error)) => self.failed.push_back((token, Err(error.into()))),
            Some(Fault::Stall(turns)) => self.stalled.push((token, turns, call)),
        }
    }

    fn batch(&self) -> u32 {
        self.engine.batch()
    }

    fn submit(&mut self) {
        self.engine.submit();
    }

    fn finished(&mut self) -> Option<(u32, io::Result<usize>)> {
        self.unstall(1);
        if let Some(failed) = self.failed.pop_front() {
            return Some(failed);
        }
        let (token, result) = self.engine.finished()?;
        if result.is_ok() {
            self.log.lock().unwrap().push(Event::Done(self.events[token as usize]));
        }
        Some((token, result))
    }

    fn wait(&mut self) {
        self.unstall(u32::MAX);
        self.engine.submit();
        if self.failed.is_empty() {
            self.engine.wait();
        }
    }

    fn prepare_to_sleep(&mut self) -> bool {
        self.engine.prepare_to_sleep() || !self.failed.is_empty() || !self.stalled.is_empty()
    }

    fn take_failure(&mut self) -> Option<io::Error> {
        self.engine.take_failure()
    }
}
