//! What a tiny kernel knows of xenstore: how to move bytes through the ring. What they say is put together here, and
//! what comes back is read by the test.

use super::code::{Code, Condition, Reg, TABLE};
use super::guest::STORE_PORT;
use iced_x86::code_asm::{
    AsmMemoryOperand, byte_ptr, dl, dword_ptr, eax, ecx, qword_ptr, r12, r13, rax, rbp, rbx, rsi,
};
use pv_abi::PAGE_SIZE;
use pv_abi::event_channel::EventChannelOp;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::io::xenstore::{DomainInterface, Header, MessageType, RING_SIZE};
use std::mem::offset_of;
use zerocopy::{FromBytes, IntoBytes};

/// Where replies are put, of the last exchange or of the whole kernel: 256 KiB.
pub const REPLIES: u64 = TABLE + 0x8_0000;

/// Fields of the ring's page, as displacements.
pub mod store_ring {
    use super::{DomainInterface, offset_of};
    pub const REQ_CONS: u32 = offset_of!(DomainInterface, req_cons) as u32;
    pub const REQ_PROD: u32 = offset_of!(DomainInterface, req_prod) as u32;
    pub const RSP: u32 = offset_of!(DomainInterface, rsp) as u32;
    pub const RSP_CONS: u32 = offset_of!(DomainInterface, rsp_cons) as u32;
    pub const RSP_PROD: u32 = offset_of!(DomainInterface, rsp_prod) as u32;
    pub const ERROR: u32 = offset_of!(DomainInterface, error) as u32;
}
use store_ring::{REQ_CONS, REQ_PROD, RSP, RSP_CONS, RSP_PROD};

/// Requests, and the replies that are due. In a text, `|` stands for a NUL.
#[derive(Clone, Default)]
pub struct Conversation {
    requests: Vec<u8>,
    replies: Vec<u8>,
    count: u32,
    /// Bytes of watch events, which come when they like.
    events: usize,
}

fn message(message_type: MessageType, req_id: u32, text: &str) -> Vec<u8> {
    let payload = text.replace('|', "\0");
    let header = Header { message_type, req_id, tx_id: 0, len: payload.len() as u32 };
    [header.as_bytes(), payload.as_bytes()].concat()
}

impl Conversation {
    /// A request, and what is replied: the name of an error, or the text of a reply to such a request.
    pub fn ask(&mut self, kind: MessageType, request: &str, reply: &str) -> &mut Self {
        self.count += 1;
        self.requests.extend(message(kind, self.count, request));
        self.replies.extend(match reply.starts_with('E') {
            true => message(MessageType::ERROR, self.count, &format!("{reply}|")),
            false => message(kind, self.count, reply),
        });
        self
    }

    /// An event that follows, some time, from what was asked.
    pub fn event(&mut self, text: &str) -> &mut Self {
        self.events += message(MessageType::WATCH_EVENT, 0, text).len();
        self
    }

    /// Bytes that are no request; nothing is replied.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.requests.extend(bytes);
        self
    }

    /// What is replied to all of this, but for events.
    pub fn replies(&self) -> &[u8] {
        &self.replies
    }

    /// Bytes of all that comes back.
    pub fn due(&self) -> usize {
        self.replies.len() + self.events
    }

    /// What is wrong with what came instead.
    pub fn complaint(&self, came: &[u8]) -> Option<String> {
        let is_reply = |(header, _): &(Header, String)| header.message_type != MessageType::WATCH_EVENT;
        let came: Vec<_> = messages(came).into_iter().filter(is_reply).collect();
        let due = messages(&self.replies);
        let wrong = (0..due.len().max(came.len())).find(|&index| due.get(index) != came.get(index))?;
        let request = messages(&self.requests).get(wrong).cloned();
        Some(format!("to {request:?}, {:?} came; due was {:?}", came.get(wrong), due.get(wrong)))
    }
}

/// Whole messages, one behind the other.
fn messages(mut bytes: &[u8]) -> Vec<(Header, String)> {
    let mut found = Vec::new();
    while let Ok((header, rest)) = Header::read_from_prefix(bytes) {
        let Some((payload, rest)) = rest.split_at_checked(header.len as usize) else { break };
        found.push((header, String::from_utf8_lossy(payload).replace('\0', "|")));
        bytes = rest;
    }
    found
}

/// A field of the store's page, once [`Code::find_store`] has found it.
pub fn store_field(offset: u32) -> AsmMemoryOperand {
    dword_ptr(r13 + offset)
}

impl Code {
    /// Keeps in R13 where the store's ring is: the page behind start_info, which RSI names at the start.
    pub fn find_store(&mut self) -> &mut Self {
        self.asm(|a| a.lea(r13, qword_ptr(rsi + PAGE_SIZE as u32)))
    }

    /// Notifies who is at the other end of a port, and lets others run.
    pub fn notify(&mut self, port: u32) -> &mut Self {
        let port = self.data(&[port]);
        self.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, port]).hypercall(N::SCHED_OP, &[0])
    }

    /// Moves all requests into the ring and all that is due out of it, to [`REPLIES`], byte by byte, as there is room.
    pub fn exchange(&mut self, conversation: &Conversation) -> &mut Self {
        let from = self.data(conversation.requests.as_slice());
        let end = from + conversation.requests.len() as u64;
        self.mov(Reg::Rbx, from).mov(Reg::R12, REPLIES);
        let again = self.here();
        self.mov(Reg::Rbp, end).asm(|a| a.cmp(rbx, rbp));
        self.unless(Condition::Zero, |code| code.put_byte(again));
        self.asm(|a| {
            a.mov(eax, store_field(RSP_CONS))?;
            a.cmp(eax, store_field(RSP_PROD))
        });
        self.unless(Condition::Zero, |code| code.take_byte(again));
        self.mov(Reg::Rbp, REPLIES + conversation.due() as u64).asm(|a| a.cmp(r12, rbp));
        self.unless(Condition::NotBelow, |code| {
            code.notify(STORE_PORT.0).jump(Condition::Always, again);
        })
    }

    /// If there is room for it, moves the byte at RBX into the ring, and goes to `then`.
    fn put_byte(&mut self, then: u64) {
        self.asm(|a| {
            a.mov(eax, store_field(REQ_PROD))?;
            a.mov(ecx, eax)?;
            a.sub(ecx, store_field(REQ_CONS))?;
            a.cmp(ecx, RING_SIZE)
        });
        self.unless(Condition::Zero, |code| {
            code.asm(|a| {
                a.mov(dl, byte_ptr(rbx))?;
                a.inc(rbx)?;
                a.and(eax, RING_SIZE - 1)?;
                a.mov(byte_ptr(r13 + rax), dl)?;
                a.inc(store_field(REQ_PROD))
            });
            code.jump(Condition::Always, then);
        });
    }

    /// Moves a byte of the replies to R12, with RSP_CONS in EAX, and goes to `then`.
    fn take_byte(&mut self, then: u64) {
        self.asm(|a| {
            a.and(eax, RING_SIZE - 1)?;
            a.mov(dl, byte_ptr(r13 + rax + RSP))?;
            a.mov(byte_ptr(r12), dl)?;
            a.inc(r12)?;
            a.inc(store_field(RSP_CONS))
        });
        self.jump(Condition::Always, then);
    }
}
