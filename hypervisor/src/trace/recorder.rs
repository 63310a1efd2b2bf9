//! From whoever records to the file: a bounded channel and a thread.

use super::file::TraceFile;
use super::json::Encoder;
use super::record::Record;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Records that wait at most: about 10 MB.
const CAPACITY: usize = 1 << 16;
/// The writer sleeps so long between two looks: who records need not wake it each time.
const NAP: Duration = Duration::from_millis(2);
/// Bytes of events that are written at once.
const BATCH: usize = 1 << 20;

/// How much of a trace was written.
#[derive(Debug, Default)]
pub struct Summary {
    /// Events that are in the file.
    pub events: u64,
    /// Records lost because the writer did not keep up.
    pub dropped: u64,
    /// Why the file ends before the run did, where it does.
    pub cut_short: Option<io::Error>,
}

/// Takes records on any thread, never waits, and writes them to a file. Clones are the same.
#[derive(Clone, Debug)]
pub struct Recorder {
    sender: Sender<Message>,
    dropped: Arc<AtomicU64>,
    writer: Arc<Mutex<Option<JoinHandle<Written>>>>,
}

/// Events written, and what stopped that.
type Written = (u64, Option<io::Error>);

enum Message {
    Record(Record),
    Finish,
}

impl Recorder {
    /// Writes to `file`, which is empty. `failed` is told where that fails later; nothing is recorded any more then.
    ///
    /// # Errors
    /// The host's: the file cannot be written, or there is no thread.
    pub fn start(file: File, failed: impl FnOnce(&io::Error) + Send + 'static) -> io::Result<Self> {
        let file = TraceFile::new(file)?;
        let (sender, receiver) = bounded(CAPACITY);
        let body = move || {
            let mut events = 0;
            let error = write(&receiver, file, &mut events).err();
            if let Some(error) = &error {
                failed(error);
            }
            (events, error)
        };
        let writer = thread::Builder::new().name("trace".into()).spawn(body)?;
        Ok(Self { sender, dropped: Arc::default(), writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Takes a record, or drops it.
    pub fn record(&self, record: Record) {
        // Without a writer there is nothing to lose.
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Record(record)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what was recorded up to now, and nothing after that. None where that was done already.
    pub fn finish(&self) -> Option<Summary> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writer.take()?;
        // A writer that has failed is gone.
        let _ = self.sender.send(Message::Finish);
        let (events, cut_short) = writer.join().unwrap_or_default();
        Some(Summary { events, dropped: self.dropped.load(Ordering::Relaxed), cut_short })
    }
}

/// Writes until the end. `events` are those that the file holds.
fn write(receiver: &Receiver<Message>, mut file: TraceFile, events: &mut u64) -> io::Result<()> {
    let mut encoder = Encoder::default();
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(message) = receiver.recv() {
        batch.clear();
        let mut next = Some(message);
        while let Some(Message::Record(record)) = &next {
            encoder.encode(record, &mut batch);
            next = if batch.len() < BATCH { receiver.try_recv().ok() } else { None };
        }
        file.append(&batch)?;
        *events = encoder.events;
        match next {
            Some(Message::Finish) => return Ok(()),
            _ if batch.len() < BATCH => thread::sleep(NAP),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Span;
    use crate::vcpu::VcpuKey;
    use pv_abi::{DomId, VcpuId};
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::sync::atomic::AtomicBool;

    fn upcall(start: u64) -> Record {
        let vcpu = VcpuKey { domain: DomId(1), vcpu: VcpuId(0) };
        Record::Upcall { vcpu, span: Span { start, end: start + 1 } }
    }

    #[test]
    fn all_that_was_recorded_before_the_end_is_written_or_counted() {
        const RECORDS: u64 = 100_000;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let recorder =
            Recorder::start(file.reopen().expect("a file"), |_| panic!("it fails")).expect("a thread");
        (0..RECORDS).for_each(|start| recorder.record(upcall(start)));
        let summary = recorder.finish().expect("the first time");
        assert_eq!(summary.events + summary.dropped, RECORDS);
        recorder.record(upcall(0));
        assert!(recorder.finish().is_none());
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file.path()).expect("a file")).expect("JSON");
        let events = json["traceEvents"].as_array().expect("events");
        assert_eq!(events.iter().filter(|event| event["ph"] == "X").count() as u64, summary.events);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_found_at_the_start() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let reading = File::open(file.path()).expect("a file");
        assert!(Recorder::start(reading, |_| {}).is_err());
    }

    #[test]
    fn a_writer_that_fails_later_says_so_once_and_stops_nobody() {
        let memory = memfd_create("trace", MemfdFlags::ALLOW_SEALING).expect("a file");
        let file = File::from(memory.try_clone().expect("a descriptor"));
        let told = Arc::new(AtomicBool::new(false));
        let failed = {
            let told = Arc::clone(&told);
            move |_: &io::Error| assert!(!told.swap(true, Ordering::SeqCst))
        };
        let recorder = Recorder::start(file, failed).expect("the head is written");
        fcntl_add_seals(&memory, SealFlags::WRITE).expect("nothing is mapped");
        (0..10).for_each(|start| recorder.record(upcall(start)));
        let summary = recorder.finish().expect("the first time");
        assert_eq!((summary.events, summary.dropped), (0, 0));
        assert!(summary.cut_short.is_some());
        assert!(told.load(Ordering::SeqCst));
    }
}
