//! What the machine does and how long it takes, as a file that Perfetto and `chrome://tracing` open.
//!
//! Each pcpu has a track: which vCPU ran from when to when, and within that the guest and its exits. Each vCPU has
//! one: its turns, with exits, hypercalls and upcalls within them, and between them what it waited for. All spans of a
//! track are properly nested.
//!
//! Whoever does something [records](Tracer::record) it into a bounded channel, and never waits: what finds the channel
//! full is counted and lost. A thread of its own writes the file ([`Recorder`]). Where nothing is traced, a record
//! costs one look at a pointer.

mod file;
mod json;
mod record;
mod recorder;

pub use file::is_trace;
pub use record::{Called, Record, Span};
pub use recorder::{Recorder, Summary};

use crate::clock::Clock;
use std::sync::OnceLock;

/// Where records go, if they go anywhere.
#[derive(Debug, Default)]
pub struct Trace(OnceLock<Recorder>);

impl Trace {
    /// From now on they go there; false where they go somewhere already.
    pub fn start(&self, recorder: Recorder) -> bool {
        self.0.set(recorder).is_ok()
    }

    /// The recorder, where there is one.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.0.get()
    }

    /// Records by the time of `clock`.
    pub fn by<'a>(&'a self, clock: &'a dyn Clock) -> Tracer<'a> {
        Tracer(self.0.get().map(|recorder| (recorder, clock)))
    }
}

/// Records with their times, or does nothing.
#[derive(Clone, Copy, Debug)]
pub struct Tracer<'a>(Option<(&'a Recorder, &'a dyn Clock)>);

impl Tracer<'_> {
    /// The time, for [`Self::record`] later; 0 where nothing is traced.
    pub fn now(self) -> u64 {
        self.0.map_or(0, |(_, clock)| clock.now())
    }

    /// Records what began at `start` and ends now.
    pub fn record(self, start: u64, record: impl FnOnce(Span) -> Record) {
        if let Some((recorder, clock)) = self.0 {
            recorder.record(record(Span { start, end: clock.now() }));
        }
    }
}
