//! What a tiny kernel knows of a disk: how to connect its ring, and how to put requests into it as they are.

use super::code::{Code, Condition, Reg, TABLE};
use super::guest::{FIRST_OWN_PORT, Guest};
use super::store::Conversation;
use iced_x86::code_asm::{dword_ptr, eax, qword_ptr, rax, rdi};
use pv_abi::event_channel::{AllocUnbound, EventChannelOp};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::io::block::{Request, Response, Segment};
use pv_abi::io::xenstore::MessageType;
use pv_abi::ring::{REQ_PROD, RSP_PROD, SLOTS};
use pv_abi::{DomId, EventPort, GrantRef};
use std::collections::BTreeMap;
use zerocopy::{FromBytes, FromZeros};

/// The disk's ring, of one page.
pub const RING: u64 = TABLE + 0x4000;
/// The page that is lent for a request's data.
pub const DATA_PAGE: u64 = TABLE + 0x5000;
/// The page of segments of indirect requests.
pub const SEGMENT_PAGE: u64 = TABLE + 0x6000;
/// What the pages are lent by.
pub const RING_REF: GrantRef = GrantRef(8);
/// What [`DATA_PAGE`] is lent by.
pub const DATA_REF: GrantRef = GrantRef(9);
/// What [`SEGMENT_PAGE`] is lent by.
pub const SEGMENT_REF: GrantRef = GrantRef(10);
/// The first port that it opens.
const PORT: u32 = FIRST_OWN_PORT;
/// Where `xvda`'s front-end publishes what it has.
const FRONT_END: &str = "device/vbd/51712";
const SLOTS_OF_RING: u32 = pv_abi::ring::index::slots(4096, size_of::<Request>());

/// A request with these segments.
pub fn request(operation: pv_abi::io::block::Operation, sector_number: u64, segments: &[Segment]) -> Request {
    let mut request = Request { operation, sector_number, ..Request::new_zeroed() };
    request.nr_segments = segments.len() as u8;
    request.seg[..segments.len()].copy_from_slice(segments);
    request
}

/// The sectors from `first_sect` to `last_sect`, both included, of the page that is lent by `gref`.
pub const fn segment(gref: GrantRef, first_sect: u8, last_sect: u8) -> Segment {
    Segment { gref, first_sect, last_sect, padding: 0 }
}

impl Code {
    /// Opens a port for the disk's back-end and publishes that and the ring, as [`Guest::lend_to_disk`] lends it. After
    /// [`Code::find_store`].
    pub fn connect_disk(&mut self) -> &mut Self {
        self.publish_disk(&RING_REF.0.to_string(), &PORT.to_string())
    }

    /// The same with other words.
    pub fn publish_disk(&mut self, ring_ref: &str, port: &str) -> &mut Self {
        let unbound = AllocUnbound { dom: DomId::SELF, remote_dom: DomId::HOST, port: EventPort(0) };
        let unbound = self.data(&unbound);
        self.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::ALLOC_UNBOUND.0, unbound]);
        let mut words = Conversation::default();
        for (name, value) in [("ring-ref", ring_ref), ("event-channel", port), ("state", "3")] {
            words.ask(MessageType::WRITE, &format!("{FRONT_END}/{name}|{value}"), "OK|");
        }
        self.exchange(&words)
    }

    /// Puts a request into the next slot, whether or not that is free, and shows it.
    pub fn ask_disk(&mut self, request: &Request) -> &mut Self {
        let at = self.data(request);
        self.mov(Reg::Rsi, at).mov(Reg::Rcx, size_of::<Request>() as u64);
        self.asm(|a| {
            a.mov(eax, dword_ptr(RING + REQ_PROD as u64))?;
            a.and(eax, SLOTS_OF_RING - 1)?;
            a.imul_3(eax, eax, size_of::<Request>() as u32)?;
            a.lea(rdi, qword_ptr(rax + (RING + SLOTS as u64) as i32))?;
            a.rep().movsb()?;
            a.inc(dword_ptr(RING + REQ_PROD as u64))
        });
        self.notify(PORT)
    }

    /// Waits until as much was answered as was asked.
    pub fn await_disk(&mut self) -> &mut Self {
        let again = self.here();
        self.hypercall(N::SCHED_OP, &[0]);
        self.asm(|a| {
            a.mov(eax, dword_ptr(RING + RSP_PROD as u64))?;
            a.cmp(eax, dword_ptr(RING + REQ_PROD as u64))
        });
        self.jump(Condition::NotZero, again)
    }

    /// Says that so many requests are there.
    pub fn claim_requests(&mut self, count: u32) -> &mut Self {
        self.asm(|a| a.mov(dword_ptr(RING + REQ_PROD as u64), count));
        self.notify(PORT)
    }
}

impl Guest {
    /// Lends the disk's back-end the ring, a page for data and one for segments.
    pub fn lend_to_disk(&self) -> Result<(), libtest_mimic::Failed> {
        for (reference, page) in [(RING_REF, RING), (DATA_REF, DATA_PAGE), (SEGMENT_REF, SEGMENT_PAGE)] {
            self.lend(reference.0, DomId::HOST, self.mfn(page))?;
        }
        Ok(())
    }

    /// What was answered so far, by id, in a ring that has not come round.
    pub fn answers(&self) -> BTreeMap<u64, Response> {
        let answered = self.peek(RING + RSP_PROD as u64) as u32;
        let answer = |slot: u32| {
            let at = RING + SLOTS as u64 + u64::from(slot) * size_of::<Request>() as u64;
            let bytes = self.peek_bytes(at, size_of::<Response>());
            Response::read_from_bytes(&bytes).expect("a response's bytes")
        };
        (0..answered.min(SLOTS_OF_RING)).map(answer).map(|answer| (answer.id, answer)).collect()
    }
}
