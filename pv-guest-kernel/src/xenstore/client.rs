//! The client: requests that wait for their replies, and watches that wait for their events.
//!
//! Any number of requests may be on their way; a reply is known by its request's number. All bytes that arrive are taken
//! by one task, which wakes whoever waits. A server that breaks the protocol is not spoken to any more, and every request
//! ends with EIO.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::task::{Context, Poll, Waker};

use pv_abi::Errno;
use pv_abi::io::xenstore::MessageType;

use super::message::{Assembler, Message, request};
use super::ring::Ring;
use crate::event::Port;

/// Events of a watch that wait to be taken; where there are more, one tells of the watched path itself.
const EVENTS: usize = 32;

/// What came of a request: the payload of its reply, or the error that it names.
type Reply = Result<Vec<u8>, Errno>;

/// What somebody waits for.
struct Waiting<T> {
    value: T,
    waker: Option<Waker>,
}

impl<T> Waiting<T> {
    fn wake(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// Of a watch: the path, and what has changed.
struct Watched {
    path: String,
    changed: VecDeque<String>,
}

pub struct Client {
    ring: Ring,
    port: Rc<Port>,
    /// What there was no room for yet.
    output: Vec<u8>,
    input: Assembler,
    last_id: u32,
    replies: BTreeMap<u32, Waiting<Option<Reply>>>,
    watches: BTreeMap<u32, Waiting<Watched>>,
    failed: bool,
}

impl Client {
    pub fn new(ring: Ring, port: Rc<Port>) -> Self {
        let (replies, watches) = (BTreeMap::new(), BTreeMap::new());
        let (output, input) = (Vec::new(), Assembler::default());
        Self { ring, port, output, input, last_id: 0, replies, watches, failed: false }
    }

    fn next_id(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    /// Sends a request. Its number is to be [`Self::poll_reply`]ed and, at last, [`Self::forget`].
    pub fn send(&mut self, message_type: MessageType, parts: &[&[u8]]) -> Result<u32, Errno> {
        let id = self.next_id();
        let bytes = request(message_type, id, parts)?;
        self.replies.insert(id, Waiting { value: None, waker: None });
        self.output.extend_from_slice(&bytes);
        self.transmit();
        Ok(id)
    }

    /// Writes what there is room for.
    fn transmit(&mut self) {
        if self.failed {
            return self.fail();
        }
        match self.ring.write(&self.output) {
            Ok(0) => {}
            Ok(count) => {
                self.output.drain(..count);
                self.port.notify();
            }
            Err(_) => self.fail(),
        }
    }

    /// Takes what has arrived, and writes what there is room for now.
    pub fn receive(&mut self) {
        let bytes = match self.ring.read() {
            Ok(bytes) if !self.failed => bytes,
            _ => return self.fail(),
        };
        if !bytes.is_empty() {
            self.port.notify();
        }
        self.input.push(&bytes);
        loop {
            match self.input.next() {
                Ok(Some(message)) => self.deliver(message),
                Ok(None) => break,
                Err(_) => return self.fail(),
            }
        }
        self.transmit();
    }

    /// A message for which nobody waits is dropped: its request was given up, or its watch.
    fn deliver(&mut self, message: Message) {
        if message.header.message_type == MessageType::WATCH_EVENT {
            let Some((path, token)) = message.event() else { return };
            if let Some(watch) = self.watches.get_mut(&token) {
                let Watched { path: watched, changed } = &mut watch.value;
                let path = if changed.len() < EVENTS { path } else { watched.clone() };
                if !changed.contains(&path) {
                    changed.push_back(path);
                }
                watch.wake();
            }
        } else if let Some(waiting) = self.replies.get_mut(&message.header.req_id) {
            waiting.value = Some(message.answer());
            waiting.wake();
        }
    }

    fn fail(&mut self) {
        self.failed = true;
        self.output.clear();
        for waiting in self.replies.values_mut() {
            waiting.value.get_or_insert(Err(Errno::EIO));
            waiting.wake();
        }
        self.watches.values_mut().for_each(Waiting::wake);
    }

    /// The reply to a request, once it is there.
    pub fn poll_reply(&mut self, id: u32, context: &Context) -> Poll<Reply> {
        let Some(waiting) = self.replies.get_mut(&id) else { return Poll::Ready(Err(Errno::EIO)) };
        match waiting.value.take() {
            Some(reply) => Poll::Ready(reply),
            None => {
                waiting.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Nobody waits for that reply any more.
    pub fn forget(&mut self, id: u32) {
        self.replies.remove(&id);
    }

    /// A new watch's number, which is its token. The server is to be told.
    pub fn add_watch(&mut self, path: &str) -> u32 {
        let token = self.next_id();
        let value = Watched { path: path.into(), changed: VecDeque::new() };
        self.watches.insert(token, Waiting { value, waker: None });
        token
    }

    /// Nobody waits for that watch's events any more.
    pub fn remove_watch(&mut self, token: u32) {
        let Some(watch) = self.watches.remove(&token) else { return };
        let parts = [watch.value.path.as_bytes(), &[0], alloc::format!("{token}\0").as_bytes()].concat();
        // Where the server cannot be told, its events go nowhere.
        if let Ok(id) = self.send(MessageType::UNWATCH, &[&parts]) {
            self.forget(id);
        }
    }

    /// What has changed, once something has.
    pub fn poll_event(&mut self, token: u32, context: &Context) -> Poll<Result<String, Errno>> {
        let failed = self.failed;
        let Some(watch) = self.watches.get_mut(&token) else { return Poll::Ready(Err(Errno::EIO)) };
        match watch.value.changed.pop_front() {
            Some(path) => Poll::Ready(Ok(path)),
            None if failed => Poll::Ready(Err(Errno::EIO)),
            None => {
                watch.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
