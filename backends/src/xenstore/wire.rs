//! A connection as streams of bytes: requests in, replies and events out. Pure: whoever owns the stream moves the bytes.
//!
//! A request is taken only when all that was written before has left, so nothing piles up for a client that does not
//! read: its further requests wait where they are, and its events wait in the store, where they are bounded. Between two
//! requests that are there already no event comes: so a client finds an event that it caused behind the reply.

use super::ConnectionId;
use super::request::{answer, message};
use super::store::Store;
use pv_abi::io::xenstore::{Header, MessageType, PAYLOAD_MAX};
use zerocopy::FromBytes;

const HEADER: usize = size_of::<Header>();

/// A client announced a payload that is longer than the protocol allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a request of type {message_type} with {length} bytes, where {PAYLOAD_MAX} are allowed")]
pub struct TooLong {
    /// What the request asks for.
    pub message_type: MessageType,
    /// The length that its header gives.
    pub length: u32,
}

/// The connection's domain was released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released;

/// See the head of this file.
#[derive(Debug)]
pub struct Wire {
    connection: ConnectionId,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

impl Wire {
    /// The streams of a new connection.
    pub fn new(connection: ConnectionId) -> Self {
        Self { connection, input: Vec::new(), output: Vec::new(), sent: 0 }
    }

    /// The connection whose bytes these are.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// How many bytes of input it takes now: what is missing of a header, or of the payload behind it.
    pub fn wanted(&self) -> usize {
        match self.header() {
            _ if !self.output().is_empty() => 0,
            None => HEADER.saturating_sub(self.input.len()),
            Some(header) => HEADER.saturating_add(header.len as usize).saturating_sub(self.input.len()),
        }
    }

    /// Takes at most [`Self::wanted`] bytes of input, and returns how many.
    ///
    /// # Errors
    /// Where the client can't be served any more.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<usize, TooLong> {
        let taken = bytes.len().min(self.wanted());
        self.input.extend(bytes.iter().take(taken));
        match self.header() {
            Some(Header { message_type, len: length, .. }) if length > PAYLOAD_MAX => {
                Err(TooLong { message_type, length })
            }
            _ => Ok(taken),
        }
    }

    fn header(&self) -> Option<Header> {
        Header::read_from_prefix(&self.input).ok().map(|(header, _)| header)
    }

    /// Answers a request that is complete, or else takes an event. False where there is neither, or old output.
    ///
    /// # Errors
    /// Where the store has no such connection any more.
    pub fn advance(&mut self, store: &mut Store) -> Result<bool, Released> {
        if !store.is_connected(self.connection) {
            return Err(Released);
        }
        if !self.output().is_empty() {
            return Ok(false);
        }
        let complete = self.header().filter(|_| self.wanted() == 0);
        if let Some(header) = complete {
            let payload = self.input.get(HEADER..).unwrap_or_default();
            self.set_output(answer(store, self.connection, header, payload));
            self.input.clear();
            return Ok(true);
        }
        let event = store.next_event(self.connection);
        if let Some(event) = &event {
            let header = Header { message_type: MessageType::WATCH_EVENT, req_id: 0, tx_id: 0, len: 0 };
            self.set_output(message(header, &event.payload()));
        }
        Ok(event.is_some())
    }

    fn set_output(&mut self, output: Vec<u8>) {
        (self.output, self.sent) = (output, 0);
    }

    /// Output that has not left yet.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    /// So many bytes of it have left.
    pub fn sent(&mut self, length: usize) {
        self.sent = self.sent.saturating_add(length).min(self.output.len());
    }
}
