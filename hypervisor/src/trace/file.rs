//! A file that holds a whole trace at any time, whoever ends the process and however.
//!
//! Each batch of events is written together with the end of the file, over the end that stood there before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const HEAD: &[u8] = b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";
const TAIL: &[u8] = b"\n]}\n";

/// Whether a file that begins so is a trace as it is written here.
pub fn is_trace(beginning: &[u8]) -> bool {
    beginning.starts_with(HEAD)
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct TraceFile {
    file: File,
    /// Where the next event goes.
    end: u64,
}

impl TraceFile {
    /// Makes `file`, which is empty, a trace without events.
    pub fn new(file: File) -> io::Result<Self> {
        let mut this = Self { file, end: 0 };
        this.append(HEAD)?;
        Ok(this)
    }

    /// Appends events. Where that fails, the file ends behind those before.
    pub fn append(&mut self, events: &[u8]) -> io::Result<()> {
        let result = self.file.write_all_at(&[events, TAIL].concat(), self.end);
        match result {
            Ok(()) => self.end += events.len() as u64,
            Err(_) => self.repair(),
        }
        result
    }

    /// Takes back what was written in part. What a full device has stored already, it has room for.
    fn repair(&self) {
        let _ = self.file.write_all_at(TAIL, self.end);
        let _ = self.file.set_len(self.end + TAIL.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn it_is_json_after_each_step() {
        let copy = tempfile::NamedTempFile::new().expect("a file");
        let mut file = TraceFile::new(copy.reopen().expect("a file")).expect("written");
        for (events, count) in [(&b""[..], 0), (b"{\"a\":1}", 1), (b",\n{\"b\":2},\n{}", 3)] {
            file.append(events).expect("written");
            let text = std::fs::read_to_string(copy.path()).expect("text");
            let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(json["traceEvents"].as_array().map(Vec::len), Some(count));
        }
    }

    #[test]
    fn a_full_device_is_an_error() {
        let full = File::options().write(true).open("/dev/full").expect("a full device");
        assert_eq!(TraceFile::new(full).expect_err("no room").kind(), io::ErrorKind::StorageFull);
    }
}
