//! The store, by what clients see of it.

mod hostile;
mod load;
mod model;
mod protocol;
mod ring;
mod socket;
mod wire;

use super::request::answer;
use super::*;
use pv_abi::io::xenstore::{Header, MessageType, PAYLOAD_MAX};
use zerocopy::FromBytes;

const ONE: DomId = DomId(1);
const TWO: DomId = DomId(2);

/// A store with two guests that have homes of their own, and one privileged client.
struct Setup {
    store: Store,
    host: ConnectionId,
    one: ConnectionId,
    two: ConnectionId,
}

impl Setup {
    fn new() -> Self {
        Self::with_quota(Quota::default())
    }

    fn with_quota(quota: Quota) -> Self {
        let mut store = Store::new(quota);
        let host = store.connect(Caller::Privileged).unwrap();
        let [one, two] = [ONE, TWO].map(|domain| introduce(&mut store, domain));
        Self { store, host, one, two }
    }

    /// What a client is answered: the payload, or the error's name.
    fn try_ask(
        &mut self,
        who: ConnectionId,
        transaction: u32,
        message_type: MessageType,
        payload: impl AsRef<[u8]>,
    ) -> Result<Vec<u8>, String> {
        let payload = payload.as_ref();
        let request = Header { message_type, req_id: 77, tx_id: transaction, len: payload.len() as u32 };
        let reply = answer(&mut self.store, who, request, payload);
        self.store.tree.audit();
        self.store.tell_all();
        let (header, payload) = Header::read_from_prefix(&reply).unwrap();
        assert_eq!((header.req_id, header.tx_id, header.len as usize), (77, transaction, payload.len()));
        assert!(payload.len() <= PAYLOAD_MAX as usize);
        if header.message_type == MessageType::ERROR {
            let (nul, name) = payload.split_last().unwrap();
            assert_eq!(*nul, 0);
            return Err(String::from_utf8(name.to_vec()).unwrap());
        }
        assert_eq!(header.message_type, message_type);
        Ok(payload.to_vec())
    }

    /// The same, as text with a `|` for each NUL; an error's name stands alone.
    fn ask(&mut self, who: ConnectionId, message_type: MessageType, payload: &str) -> String {
        self.ask_in(who, 0, message_type, payload)
    }

    fn ask_in(&mut self, who: ConnectionId, transaction: u32, of: MessageType, payload: &str) -> String {
        let reply = self.try_ask(who, transaction, of, payload.replace('|', "\0"));
        reply.map_or_else(|error| error, |reply| String::from_utf8(reply).unwrap().replace('\0', "|"))
    }

    fn start(&mut self, who: ConnectionId) -> u32 {
        self.ask(who, MessageType::TRANSACTION_START, "|").trim_end_matches('|').parse().unwrap()
    }

    /// All events that wait for a client: `path|token`.
    fn events(&mut self, who: ConnectionId) -> Vec<String> {
        self.store.tell_all();
        let events = std::iter::from_fn(|| self.store.next_event(who));
        events.map(|event| format!("{}|{}", event.path, String::from_utf8_lossy(&event.token))).collect()
    }
}

/// A domain with an empty home that it owns.
fn introduce(store: &mut Store, domain: DomId) -> ConnectionId {
    store.introduce(domain).unwrap();
    let home = Path::home(domain);
    let made = store.operate(Caller::Privileged, |operation| {
        operation.mkdir(home.as_str())?;
        operation.set_permissions(home.as_str(), Permissions::private(domain))
    });
    made.unwrap_or_else(|error: pv_abi::Errno| panic!("{error}"));
    store.connect(Caller::Domain(domain)).unwrap()
}

/// A generator of numbers that are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
