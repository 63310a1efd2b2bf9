//! The ring server against guests that behave, and guests that do not.

use super::*;
use crate::Disconnect;
use crate::driver::{Device, ServiceControl, serve_as_told};
use crate::fake_host::{FakeHost, FakePage};
use crate::host::Page;
use crate::xenstore::request::message;
use pv_abi::io::xenstore::{DomainInterface, RING_SIZE, RingError, ServerFeatures};
use pv_abi::{EventPort, GrantRef};
use std::mem::offset_of;
use std::sync::Arc;

const PORT: EventPort = EventPort(2);
const REQ_CONS: usize = offset_of!(DomainInterface, req_cons);
const REQ_PROD: usize = offset_of!(DomainInterface, req_prod);
const RSP_CONS: usize = offset_of!(DomainInterface, rsp_cons);
const RSP_PROD: usize = offset_of!(DomainInterface, rsp_prod);
const CONNECTION: usize = offset_of!(DomainInterface, connection);
const ERROR: usize = offset_of!(DomainInterface, error);
const FEATURES: usize = offset_of!(DomainInterface, server_features);

/// A guest with its page, and a store that serves it.
struct Guest {
    host: Arc<FakeHost>,
    page: FakePage,
    store: StoreHandle,
    received: Vec<u8>,
}

impl Guest {
    fn new() -> Self {
        let host = Arc::new(FakeHost::default());
        let page = host.grant(ONE, GrantRef::XENSTORE);
        host.offer(ONE, PORT);
        let store = StoreHandle::default();
        store.introduce(ONE).unwrap();
        store.mkdir("/local/domain/1").unwrap();
        store.set_permissions("/local/domain/1", Permissions::private(ONE)).unwrap();
        Self { host, page, store, received: Vec::new() }
    }

    fn server(&self) -> GuestServer<FakeHost> {
        GuestServer::connect(&self.host, ONE, GrantRef::XENSTORE, PORT, &self.store).unwrap()
    }

    /// Puts as much of `bytes` into the ring as there is room for; returns how much.
    fn put(&self, bytes: &[u8]) -> usize {
        let (prod, cons) = (self.page.peek(REQ_PROD), self.page.peek(REQ_CONS));
        let room = (RING_SIZE - prod.wrapping_sub(cons)) as usize;
        let now = &bytes[..room.min(bytes.len())];
        for (byte, index) in now.iter().zip(0..) {
            self.page.write((prod.wrapping_add(index) % RING_SIZE) as usize, &[*byte]).unwrap();
        }
        self.page.store_u32(REQ_PROD, prod.wrapping_add(now.len() as u32)).unwrap();
        now.len()
    }

    fn ask(&self, message_type: MessageType, payload: &[u8]) {
        let bytes = message(Header { message_type, req_id: 5, tx_id: 0, len: 0 }, payload);
        assert_eq!(self.put(&bytes), bytes.len());
    }

    /// Takes all that is there, and returns the whole messages.
    fn take(&mut self) -> Vec<(MessageType, String)> {
        let (prod, cons) = (self.page.peek(RSP_PROD), self.page.peek(RSP_CONS));
        let bytes = self.page.bytes();
        let taken = (0..prod.wrapping_sub(cons)).map(|index| cons.wrapping_add(index) % RING_SIZE);
        self.received.extend(taken.map(|index| bytes[(RING_SIZE + index) as usize]));
        self.page.store_u32(RSP_CONS, prod).unwrap();
        let mut messages = Vec::new();
        while let Ok((header, rest)) = Header::read_from_prefix(&self.received)
            && let Some((payload, rest)) = rest.split_at_checked(header.len as usize)
        {
            messages.push((header.message_type, String::from_utf8_lossy(payload).replace('\0', "|")));
            self.received = rest.to_vec();
        }
        messages
    }
}

fn protocol_error(result: Result<bool, Disconnect>) -> String {
    match result {
        Err(Disconnect::Protocol(why)) => why,
        other => panic!("not a protocol error: {other:?}"),
    }
}

#[test]
fn requests_are_answered_and_events_told() {
    let mut guest = Guest::new();
    let mut server = guest.server();
    assert!(!server.serve().unwrap(), "nothing to do yet");
    assert_eq!(guest.host.notifications(ONE, PORT), 0);
    guest.ask(MessageType::WRITE, b"a\0x");
    guest.ask(MessageType::WATCH, b"a\0t\0");
    assert!(server.serve().unwrap());
    let expected =
        [(MessageType::WRITE, "OK|"), (MessageType::WATCH, "OK|"), (MessageType::WATCH_EVENT, "a|t|")];
    assert_eq!(guest.take(), expected.map(|(of, text)| (of, text.to_owned())));
    assert_eq!(guest.host.notifications(ONE, PORT), 1);
    guest.store.write("/local/domain/1/a", "y").unwrap();
    assert!(server.bell().listen_for(std::time::Duration::ZERO), "the server is woken for an event");
    assert!(server.serve().unwrap());
    assert_eq!(guest.take(), [(MessageType::WATCH_EVENT, "a|t|".to_owned())]);
}

/// What was asked before a pause is answered before it, also where nobody has notified the server.
#[test]
fn a_server_is_quiet_when_all_is_answered() {
    let mut guest = Guest::new();
    let mut server = guest.server();
    guest.ask(MessageType::WRITE, b"a\0x");
    server.quiesce().unwrap();
    assert_eq!(guest.take(), [(MessageType::WRITE, "OK|".to_owned())]);
}

/// Requests and replies longer than the ring, and indices that wrap.
#[test]
fn messages_longer_than_the_ring_go_through_in_pieces() {
    let mut guest = Guest::new();
    for index in [REQ_PROD, REQ_CONS, RSP_PROD, RSP_CONS] {
        guest.page.store_u32(index, u32::MAX - 100).unwrap();
    }
    let mut server = guest.server();
    let value = "0123456789".repeat(200);
    let mut requests = message(
        Header { message_type: MessageType::WRITE, req_id: 1, tx_id: 0, len: 0 },
        format!("a\0{value}").as_bytes(),
    );
    requests.extend(message(Header { message_type: MessageType::READ, req_id: 2, tx_id: 0, len: 0 }, b"a\0"));
    let (mut rest, mut answers) = (&requests[..], Vec::new());
    for _ in 0..20 {
        rest = &rest[guest.put(rest)..];
        server.serve().unwrap();
        answers.extend(guest.take());
    }
    assert_eq!(answers, [(MessageType::WRITE, "OK|".to_owned()), (MessageType::READ, value)]);
}

#[test]
fn an_index_that_lies_disconnects_and_the_guest_is_told() {
    for (index, lie, ring) in [
        (REQ_PROD, RING_SIZE + 1, "request"),
        (REQ_PROD, u32::MAX, "request"),
        (RSP_CONS, 1, "reply"),
        (RSP_CONS, 1 << 31, "reply"),
    ] {
        let guest = Guest::new();
        let mut server = guest.server();
        guest.page.store_u32(index, lie).unwrap();
        let why = protocol_error(server.serve());
        assert!(why.starts_with(&format!("the {ring} ring's indices do not fit: produced ")), "{why}");
        assert_eq!(RingError(guest.page.peek(ERROR)), RingError::RINGIDX);
        assert_eq!(guest.host.notifications(ONE, PORT), 1);
    }
}

#[test]
fn a_length_that_lies_disconnects_and_the_guest_is_told() {
    let guest = Guest::new();
    let mut server = guest.server();
    let mut bytes = message(Header { message_type: MessageType::READ, req_id: 1, tx_id: 0, len: 0 }, b"");
    bytes[12..].copy_from_slice(&5000u32.to_le_bytes());
    guest.put(&bytes);
    assert_eq!(
        protocol_error(server.serve()),
        "a request of type READ with 5000 bytes, where 4096 are allowed"
    );
    assert_eq!(RingError(guest.page.peek(ERROR)), RingError::PROTO);
}

/// An index that passes a check and is then read again can be anything the second time.
#[test]
fn an_index_that_changes_under_our_eyes_is_read_once() {
    let guest = Guest::new();
    let mut server = guest.server();
    guest.ask(MessageType::READ, b"a\0");
    guest.page.script(REQ_PROD, [18, 1_000_000]);
    guest.page.script(RSP_CONS, [0, 1_000_000]);
    assert!(server.serve().unwrap());
    assert_eq!((guest.page.loads(REQ_PROD), guest.page.loads(RSP_CONS)), (1, 1));
}

#[test]
fn our_own_indices_are_not_read_back() {
    let mut guest = Guest::new();
    let mut server = guest.server();
    guest.ask(MessageType::MKDIR, b"a\0");
    server.serve().unwrap();
    guest.take();
    let (cons, prod) = (guest.page.peek(REQ_CONS), guest.page.peek(RSP_PROD));
    for index in [REQ_CONS, RSP_PROD] {
        guest.page.store_u32(index, 0xdead_beef).unwrap();
    }
    guest.store.write("/local/domain/1/a", "x").unwrap();
    server.serve().unwrap();
    guest.page.store_u32(REQ_CONS, cons).unwrap();
    guest.page.store_u32(RSP_PROD, prod).unwrap();
    guest.ask(MessageType::READ, b"a\0");
    server.serve().unwrap();
    assert_eq!(guest.take(), [(MessageType::READ, "x".to_owned())]);
}

/// A guest that never takes its replies: what the ring and one reply hold is all that is ever kept for it, and the
/// others are served.
#[test]
fn a_guest_that_takes_no_replies_only_stops_itself() {
    let mut guest = Guest::new();
    let mut server = guest.server();
    guest.ask(MessageType::WATCH, b"a\0t\0");
    server.serve().unwrap();
    let mut asked = 0;
    for _ in 0..500 {
        let bytes =
            message(Header { message_type: MessageType::MKDIR, req_id: 9, tx_id: 0, len: 0 }, b"a/b\0");
        if guest.page.peek(REQ_PROD).wrapping_sub(guest.page.peek(REQ_CONS)) as usize + bytes.len() <= 1024 {
            guest.put(&bytes);
            asked += 1;
        }
        server.serve().unwrap();
    }
    assert!(asked < 120, "{asked} requests were taken");
    for number in 0..5000 {
        guest.store.write(&format!("/local/domain/1/a/{number}"), "").unwrap();
        server.serve().unwrap();
    }
    assert!(guest.page.peek(RSP_PROD) <= RING_SIZE);
    let mut answered = 0;
    while server.serve().unwrap() || guest.page.peek(RSP_PROD) != guest.page.peek(RSP_CONS) {
        answered += guest.take().iter().filter(|(of, _)| *of == MessageType::MKDIR).count();
    }
    assert_eq!(answered, asked, "it finds them all when it reads after all");
}

#[test]
fn a_guest_may_ask_for_a_new_connection() {
    let mut guest = Guest::new();
    let mut server = guest.server();
    assert_eq!(guest.page.peek(FEATURES), (ServerFeatures::RECONNECTION | ServerFeatures::ERROR).bits());
    guest.ask(MessageType::WATCH, b"a\0t\0");
    guest.ask(MessageType::TRANSACTION_START, b"\0");
    server.serve().unwrap();
    guest.put(b"half a header");
    guest.page.store_u32(RSP_CONS, 0x1234_5678).unwrap();
    guest.page.store_u32(CONNECTION, 1).unwrap();
    assert!(server.serve().unwrap());
    assert_eq!(guest.page.peek(CONNECTION), 0);
    for index in [REQ_PROD, REQ_CONS, RSP_PROD, RSP_CONS] {
        assert_eq!(guest.page.peek(index), 0);
    }
    guest.store.write("/local/domain/1/a", "").unwrap();
    guest.ask(MessageType::WATCH, b"a\0t\0");
    server.serve().unwrap();
    let expected = [(MessageType::WATCH, "OK|"), (MessageType::WATCH_EVENT, "a|t|")];
    assert_eq!(guest.take(), expected.map(|(of, text)| (of, text.to_owned())), "the old watch is gone");
}

#[test]
fn what_is_not_there_is_an_error() {
    let guest = Guest::new();
    let connect = |domain, reference, port| {
        let server = GuestServer::connect(&guest.host, domain, reference, port, &guest.store);
        server.map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(connect(TWO, GrantRef::XENSTORE, PORT), "d2 can't connect to the store: ENOENT");
    assert_eq!(connect(ONE, GrantRef(7), PORT), "d1 grants nothing by GrantRef(7)");
    assert_eq!(connect(ONE, GrantRef::XENSTORE, EventPort(9)), "d1 offers no EventPort(9)");
    let mut server = guest.server();
    assert_eq!(connect(ONE, GrantRef::XENSTORE, PORT), "d1 can't connect to the store: EISCONN");
    guest.page.take_away();
    assert!(matches!(server.serve(), Err(Disconnect::Host(_))));
}

/// Every pair of nasty indices, with nasty bytes in the ring: the guest is served or disconnected, and the server lives.
#[test]
fn no_sequence_of_indices_makes_it_panic() {
    let nasty = [0, 1, RING_SIZE - 1, RING_SIZE, RING_SIZE + 1, 1 << 31, u32::MAX - 1, u32::MAX];
    let mut random = Random(77);
    for start in nasty {
        for req_prod in nasty {
            for rsp_cons in nasty {
                let guest = Guest::new();
                let bytes: Vec<u8> =
                    (0..2048).map(|_| random.pick(&[0, 0, 0, 2, 4, b'a', b'/', 0xff])).collect();
                guest.page.write(0, &bytes).unwrap();
                for index in [REQ_CONS, RSP_PROD] {
                    guest.page.store_u32(index, start).unwrap();
                }
                guest.page.script(REQ_PROD, [req_prod, start.wrapping_add(req_prod)]);
                guest.page.script(RSP_CONS, [rsp_cons, start.wrapping_sub(rsp_cons)]);
                let mut server = guest.server();
                let served = (0..10).map_while(|_| server.serve().ok()).filter(|moved| *moved).count();
                assert!(served <= 10);
            }
        }
    }
}

/// A server on a thread of its own: requests by notification, events from other threads, a stop, a release.
#[test]
fn a_running_server_wakes_for_everything() {
    let mut guest = Guest::new();
    for released in [false, true] {
        let mut server = guest.server();
        let control = &ServiceControl::new(Arc::clone(server.bell()));
        std::thread::scope(|scope| {
            let running = scope.spawn(move || serve_as_told(&mut server, control));
            guest.ask(MessageType::WATCH, b"a\0t\0");
            guest.host.notify_backend(ONE, PORT);
            wait_for(&mut guest, 2);
            for round in 0..200 {
                guest.store.write("/local/domain/1/a", round.to_string()).unwrap();
                wait_for(&mut guest, 1);
                guest.ask(MessageType::READ, b"a\0");
                guest.host.notify_backend(ONE, PORT);
                wait_for(&mut guest, 1);
            }
            if released {
                guest.store.release(ONE);
                assert!(matches!(running.join().unwrap(), Err(Disconnect::Released)));
            } else {
                control.stop();
                running.join().unwrap().unwrap();
            }
        });
    }
}

fn wait_for(guest: &mut Guest, messages: usize) {
    let (start, mut found) = (std::time::Instant::now(), 0);
    while found < messages {
        assert!(start.elapsed().as_secs() < 20, "the server does not wake up");
        found += guest.take().len();
        std::thread::yield_now();
    }
}
