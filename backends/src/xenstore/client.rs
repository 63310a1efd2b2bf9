//! A client of a store's socket, for tools: one request at a time, which waits for its answer, but not for ever.
//! Events are waited for as long as it takes.

use super::liveness::connect_patiently;
use pv_abi::Errno;
use pv_abi::io::xenstore::{Header, MessageType, PAYLOAD_MAX, error_named};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use zerocopy::IntoBytes;

/// How long a request waits for its answer.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The store has refused a request.
    #[error("can't {operation} {path} in xenstore: {} ({errno})", errno.text())]
    Refused {
        /// What was asked for, as a verb.
        operation: &'static str,
        /// The node that it was asked of.
        path: String,
        /// Why the store has refused it.
        errno: Errno,
    },
    /// Who served the store has gone.
    #[error("xenstore is served no more: its paravane has ended")]
    Ended,
    /// The socket is not there, or does not answer as a store does.
    #[error("{0}")]
    Socket(io::Error),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Ended,
            _ => Self::Socket(error),
        }
    }
}

/// A connection to the store of another process, over its socket.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    last_request: u32,
    events: VecDeque<String>,
}

impl Client {
    /// Connects to the store that is served at `path`.
    ///
    /// # Errors
    /// Where none is.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = connect_patiently(path).map(UnixStream::from).and_then(|stream| {
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        let stream = stream.map_err(|error| {
            io::Error::new(error.kind(), format!("can't reach xenstore at {}: {error}", path.display()))
        })?;
        Ok(Self { stream, last_request: 0, events: VecDeque::new() })
    }

    /// The names of a node's children. Long lists come in parts, and anew where they changed in between.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ls(&mut self, path: &str) -> Result<Vec<String>, ClientError> {
        'anew: loop {
            let (mut list, mut generation) = (Vec::new(), None);
            loop {
                let payload = format!("{path}\0{}\0", list.len());
                let part = self.request(MessageType::DIRECTORY_PART, "list", path, payload.as_bytes())?;
                let mut halves = part.splitn(2, |byte| *byte == 0);
                let (Some(of), Some(names)) = (halves.next(), halves.next()) else {
                    return Err(nonsense().into());
                };
                if *generation.get_or_insert_with(|| of.to_vec()) != of {
                    continue 'anew;
                }
                // The end of the list is an empty name.
                if let Some(last) =
                    names.strip_suffix(&[0]).filter(|rest| rest.last().is_none_or(|byte| *byte == 0))
                {
                    list.extend_from_slice(last);
                    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                    return Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect());
                }
                if names.is_empty() {
                    return Err(nonsense().into());
                }
                list.extend_from_slice(names);
            }
        }
    }

    /// A node's value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, ClientError> {
        self.request(MessageType::READ, "read", path, format!("{path}\0").as_bytes())
    }

    /// Sets a node's value, and makes it and what is missing above it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), ClientError> {
        let payload = [path.as_bytes(), &[0], value].concat();
        self.request(MessageType::WRITE, "write", path, &payload).map(drop)
    }

    /// Removes a node, and all below it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn rm(&mut self, path: &str) -> Result<(), ClientError> {
        self.request(MessageType::RM, "remove", path, format!("{path}\0").as_bytes()).map(drop)
    }

    /// Watches a path, and all below it; [`Self::next_event`] tells of changes. The first event, of the path itself,
    /// comes at once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn watch(&mut self, path: &str) -> Result<(), ClientError> {
        self.request(MessageType::WATCH, "watch", path, format!("{path}\0{path}\0").as_bytes()).map(drop)
    }

    /// Waits for a change, and returns its path.
    ///
    /// # Errors
    /// Where the store is gone.
    pub fn next_event(&mut self) -> Result<String, ClientError> {
        loop {
            if let Some(path) = self.events.pop_front() {
                return Ok(path);
            }
            // It comes when it comes.
            self.stream.set_read_timeout(None)?;
            let (header, payload) = self.receive()?;
            self.note_event(header, &payload);
        }
    }

    fn request(
        &mut self,
        message_type: MessageType,
        operation: &'static str,
        path: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>, ClientError> {
        let refused = |errno| ClientError::Refused { operation, path: path.to_owned(), errno };
        // The server would end the connection.
        if payload.len() > PAYLOAD_MAX as usize {
            return Err(refused(Errno::E2BIG));
        }
        self.last_request = self.last_request.wrapping_add(1);
        let req_id = self.last_request;
        let header = Header { message_type, req_id, tx_id: 0, len: payload.len() as u32 };
        self.stream.write_all(&[header.as_bytes(), payload].concat()).map_err(unanswered)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        loop {
            let (header, payload) = self.receive().map_err(unanswered)?;
            match header.message_type {
                MessageType::ERROR => return Err(refused(error_named(&payload).unwrap_or(Errno::EIO))),
                it if it == message_type && header.req_id == req_id => return Ok(payload),
                _ => self.note_event(header, &payload),
            }
        }
    }

    fn receive(&mut self) -> io::Result<(Header, Vec<u8>)> {
        let mut header = Header { message_type: MessageType::INVALID, req_id: 0, tx_id: 0, len: 0 };
        self.stream.read_exact(header.as_mut_bytes())?;
        if header.len > PAYLOAD_MAX {
            return Err(nonsense());
        }
        let mut payload = vec![0; header.len as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((header, payload))
    }

    fn note_event(&mut self, header: Header, payload: &[u8]) {
        if header.message_type == MessageType::WATCH_EVENT {
            let path = payload.split(|byte| *byte == 0).next().unwrap_or_default();
            self.events.push_back(String::from_utf8_lossy(path).into_owned());
        }
    }
}

/// What the host calls a time that is up, in words.
fn unanswered(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            io::Error::new(ErrorKind::TimedOut, "xenstore does not answer; whoever serves it may be stopped")
        }
        _ => error,
    }
}

fn nonsense() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "what answers there is no xenstore")
}
