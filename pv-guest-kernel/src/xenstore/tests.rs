//! The client against servers that lie: requests end with an error, and nothing panics, grows or waits for ever.

use super::client::Client;
use super::ring::Ring;
use crate::event::Port;
use crate::fakes;
use crate::memory::SharedPage;
use pv_abi::io::xenstore::{DomainInterface, Header, MessageType, PAYLOAD_MAX, RING_SIZE};
use pv_abi::{Errno, Mfn};
use std::mem::offset_of;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use zerocopy::{FromBytes, IntoBytes};

const RSP: usize = offset_of!(DomainInterface, rsp);
const REQ_PROD: usize = offset_of!(DomainInterface, req_prod);
const REQ_CONS: usize = offset_of!(DomainInterface, req_cons);
const RSP_PROD: usize = offset_of!(DomainInterface, rsp_prod);

/// A client, and the server's view of its ring.
struct Setup {
    client: Client,
    page: SharedPage,
}

impl Setup {
    fn new() -> Self {
        let ring = Ring::new(Mfn(3)).unwrap();
        Self { client: Client::new(ring, Rc::new(Port)), page: fakes::page(3) }
    }

    fn ask(&mut self) -> u32 {
        self.client.send(MessageType::READ, &[b"a\0"]).unwrap()
    }

    fn watch(&mut self) -> u32 {
        self.client.add_watch("a/b")
    }

    fn load(&self, index: usize) -> u32 {
        self.page.word(index).load(Ordering::SeqCst)
    }

    fn store(&self, index: usize, value: u32) {
        self.page.word(index).store(value, Ordering::SeqCst);
    }

    /// Takes all requests, whatever they are, and sends a message.
    fn say(&mut self, message_type: MessageType, req_id: u32, len: u32, payload: &[u8]) {
        self.store(REQ_CONS, self.load(REQ_PROD));
        let header = Header { message_type, req_id, tx_id: 0, len };
        let produced = self.load(RSP_PROD);
        for (index, byte) in (produced..).zip([header.as_bytes(), payload].concat()) {
            self.page.write(RSP + (index % RING_SIZE) as usize, &[byte]);
        }
        self.store(RSP_PROD, produced.wrapping_add((size_of::<Header>() + payload.len()) as u32));
        self.client.receive();
    }

    fn reply(&mut self, id: u32, payload: &[u8]) {
        self.say(MessageType::READ, id, payload.len() as u32, payload);
    }

    fn answer(&mut self, id: u32) -> Poll<Result<Vec<u8>, Errno>> {
        self.client.poll_reply(id, &Context::from_waker(Waker::noop()))
    }

    fn event(&mut self, token: u32) -> Poll<Result<String, Errno>> {
        self.client.poll_event(token, &Context::from_waker(Waker::noop()))
    }
}

const BROKEN: Poll<Result<Vec<u8>, Errno>> = Poll::Ready(Err(Errno::EIO));

#[test]
fn replies_go_to_whoever_asked_in_any_order() {
    let mut setup = Setup::new();
    let (first, second) = (setup.ask(), setup.ask());
    setup.reply(second, b"two");
    assert_eq!((setup.answer(first), setup.answer(second)), (Poll::Pending, Poll::Ready(Ok(b"two".into()))));
    setup.reply(first, b"one");
    assert_eq!(setup.answer(first), Poll::Ready(Ok(b"one".into())));
}

/// What ends the connection: every request, then and later, ends with an error, and so does every watch.
fn breaks(lie: impl Fn(&mut Setup)) {
    let mut setup = Setup::new();
    let (asked, watch) = (setup.ask(), setup.watch());
    lie(&mut setup);
    setup.client.receive();
    assert_eq!(setup.answer(asked), BROKEN);
    assert_eq!(setup.event(watch), Poll::Ready(Err(Errno::EIO)));
    let asked = setup.ask();
    assert_eq!(setup.answer(asked), BROKEN);
}

#[test]
fn indices_that_jump_end_the_connection() {
    for lie in [RING_SIZE + 1, 1 << 31, u32::MAX] {
        breaks(|setup| setup.store(RSP_PROD, lie));
        breaks(|setup| {
            setup.store(REQ_CONS, setup.load(REQ_PROD).wrapping_add(lie));
            let _ = setup.ask();
        });
    }
}

#[test]
fn an_absurd_length_ends_the_connection() {
    for length in [PAYLOAD_MAX + 1, u32::MAX] {
        breaks(|setup| setup.say(MessageType::READ, 1, length, b"x"));
    }
}

#[test]
fn replies_that_nobody_waits_for_are_nobodys() {
    let mut setup = Setup::new();
    let (given_up, asked) = (setup.ask(), setup.ask());
    setup.client.forget(given_up);
    for id in [0, given_up, 77, u32::MAX] {
        setup.reply(id, b"wrong");
        setup.say(MessageType::ERROR, id, 7, b"EACCES\0");
    }
    assert_eq!(setup.answer(asked), Poll::Pending);
    setup.reply(asked, b"right");
    assert_eq!(setup.answer(asked), Poll::Ready(Ok(b"right".into())));
    setup.client.forget(asked);
    setup.reply(asked, b"again");
    assert_eq!(setup.answer(asked), BROKEN, "it has ended");
}

#[test]
fn an_error_that_there_is_not_is_an_error() {
    for name in [&b""[..], b"EWHAT\0", b"EACCES", b"\0\0\0", &[0xff; 300]] {
        let mut setup = Setup::new();
        let asked = setup.ask();
        setup.say(MessageType::ERROR, asked, name.len() as u32, name);
        assert!(matches!(setup.answer(asked), Poll::Ready(Err(_))), "{name:?}");
    }
}

#[test]
fn events_that_make_no_sense_are_nobodys() {
    let mut setup = Setup::new();
    let watch = setup.watch();
    for payload in [&b""[..], b"\0", b"a\0", b"a/b\0x\0", b"a/b\0-1\0", b"a/b\0999\0", b"\xff\xfe\0"] {
        setup.say(MessageType::WATCH_EVENT, 0, payload.len() as u32, payload);
        assert!(setup.event(watch).is_pending(), "{payload:?}");
    }
    let right = format!("a/b/c\0{watch}\0");
    setup.say(MessageType::WATCH_EVENT, 0, right.len() as u32, right.as_bytes());
    assert_eq!(setup.event(watch), Poll::Ready(Ok("a/b/c".into())));
}

/// Nothing is kept of a flood but that there was one.
#[test]
fn a_flood_of_events_is_merged() {
    let mut setup = Setup::new();
    let watch = setup.watch();
    for number in 0..1000 {
        let event = format!("a/b/{number}\0{watch}\0");
        setup.say(MessageType::WATCH_EVENT, 0, event.len() as u32, event.as_bytes());
    }
    let mut taken = Vec::new();
    while let Poll::Ready(event) = setup.event(watch) {
        taken.push(event.unwrap());
    }
    assert!(taken.len() <= 40 && taken.contains(&"a/b".into()), "{taken:?}");
}

/// A server that takes nothing: requests wait, and go when it takes something after all.
#[test]
fn requests_wait_for_a_server_that_takes_nothing() {
    let mut setup = Setup::new();
    let asked: Vec<u32> = (0..200).map(|_| setup.ask()).collect();
    assert!(setup.load(REQ_PROD) <= RING_SIZE);
    assert!(asked.iter().all(|id| setup.answer(*id).is_pending()));
    for _ in 0..10 {
        setup.store(REQ_CONS, setup.load(REQ_PROD));
        setup.client.receive();
    }
    let mut header = [0; size_of::<Header>()];
    let last = setup.load(REQ_PROD).wrapping_sub(18) % RING_SIZE;
    assert_eq!(setup.load(REQ_PROD), 200 * 18);
    for (at, byte) in (last..).zip(&mut header) {
        setup.page.read((at % RING_SIZE) as usize, std::slice::from_mut(byte));
    }
    assert_eq!(Header::read_from_bytes(&header).unwrap().req_id, asked[199]);
}

/// A server that writes anything anywhere.
#[test]
fn no_server_makes_it_panic() {
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random >> 11
    };
    for _ in 0..300 {
        let mut setup = Setup::new();
        let watch = setup.watch();
        for _ in 0..40 {
            let (id, types) = (setup.ask(), [2, 4, 15, 16, 200]);
            match next() % 6 {
                0 => setup.page.write((next() % 4088) as usize, &next().to_le_bytes()),
                1 => setup.store(RSP_PROD, setup.load(RSP_PROD).wrapping_add(next() as u32 % 2000)),
                2 => setup.store(REQ_CONS, next() as u32),
                _ => {
                    let (length, payload) = ((next() % 5000) as u32, next().to_le_bytes());
                    let of = MessageType(types[(next() % 5) as usize]);
                    setup.say(of, id.wrapping_sub((next() % 3) as u32), length, &payload);
                }
            }
            setup.client.receive();
            let _ = (setup.answer(id), setup.event(watch));
        }
        setup.client.remove_watch(watch);
    }
}
