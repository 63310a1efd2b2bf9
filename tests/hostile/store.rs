//! Guests that lie to xenstore, flood it, or want what is others'.

use crate::served::{SECRET, Served, nodes_of};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, Conversation, Reg, SCRATCH, STORE_PORT, store_field, store_ring};
use iced_x86::code_asm::{eax, rbx};
use libtest_mimic::{Failed, Trial};
use pv_abi::io::xenstore::{Header, MessageType as Type, PAYLOAD_MAX, RING_SIZE, RingError};
use zerocopy::IntoBytes;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("store/a ring that lies", lying_ring),
        kvm_test("store/a message that is too long", long_message),
        kvm_test("store/replies that nobody takes", replies_left),
        kvm_test("store/a flood of nodes and transactions", nodes_and_transactions),
        kvm_test("store/a flood of watches", watches),
        kvm_test("store/nodes of others", nodes_of_others),
        kvm_test("store/watching others", watching_others),
    ]
}

/// Runs a guest until it has parked; whether the store has let go of it, and why it says so in the ring's page.
fn how_it_is_left(served: &Served, code: &Code) -> Result<(bool, RingError), Failed> {
    let attacker = served.build(code)?;
    attacker.guest.start()?;
    attacker.guest.wait_until_parked()?;
    served.neighbour_goes_on()?;
    served.end(attacker)
}

/// Each index of the ring is set to values that cannot be. The store lets go of a guest that lies about its own indices;
/// the others are not its to set, and nobody reads them.
fn lying_ring() -> Result<(), Failed> {
    let served = Served::new()?;
    let indices = [
        (store_ring::REQ_PROD, true),
        (store_ring::RSP_CONS, true),
        (store_ring::REQ_CONS, false),
        (store_ring::RSP_PROD, false),
    ];
    for (index, own) in indices {
        for lie in [RING_SIZE + 1, 1 << 31, 0xffff_0000] {
            let mut code = Code::default();
            code.find_store().asm(|a| a.mov(store_field(index), lie));
            code.notify(STORE_PORT.0).park();
            let left = how_it_is_left(&served, &code)?;
            let due = if own { (true, RingError::RINGIDX) } else { (false, RingError::NONE) };
            check(left == due, || format!("{lie:#x} at {index}: {left:?}"))?;
        }
    }
    served.finish()
}

/// A header that announces more than a message may have ends the connection at once; the longest that may be does not.
fn long_message() -> Result<(), Failed> {
    let served = Served::new()?;
    for len in [PAYLOAD_MAX, PAYLOAD_MAX + 1, 1 << 31, u32::MAX] {
        let header = Header { message_type: Type::READ, req_id: 1, tx_id: 0, len };
        let mut code = Code::default();
        code.find_store()
            .exchange(Conversation::default().bytes(header.as_bytes()))
            .notify(STORE_PORT.0)
            .park();
        let left = how_it_is_left(&served, &code)?;
        let due = if len > PAYLOAD_MAX { (true, RingError::PROTO) } else { (false, RingError::NONE) };
        check(left == due, || format!("{len} bytes: {left:?}"))?;
    }
    served.finish()
}

/// A guest asks and asks and takes no reply: of what it asks, no more is taken than there is room to answer, and one.
fn replies_left() -> Result<(), Failed> {
    let served = Served::new()?;
    let mut code = Code::default();
    // The ring is full of zeros, which are requests.
    code.find_store().asm(|a| a.mov(store_field(store_ring::REQ_PROD), RING_SIZE));
    let waiting = code.here();
    // Until the store has begun.
    code.notify(STORE_PORT.0).asm(|a| {
        a.mov(eax, store_field(store_ring::REQ_CONS))?;
        a.test(eax, eax)
    });
    code.jump(Condition::Zero, waiting).mov(Reg::Rbx, 100);
    let again = code.here();
    // Full again.
    code.asm(|a| {
        a.mov(eax, store_field(store_ring::REQ_CONS))?;
        a.add(eax, RING_SIZE)?;
        a.mov(store_field(store_ring::REQ_PROD), eax)
    });
    code.notify(STORE_PORT.0).asm(|a| a.dec(rbx)).jump(Condition::NotZero, again);
    code.asm(|a| a.mov(eax, store_field(store_ring::REQ_CONS))).say().park();
    let attacker = served.build(&code)?;
    attacker.guest.start()?;
    attacker.guest.wait_until_parked()?;
    let taken = attacker.guest.said();
    // The last one taken is the first whose reply has no room.
    let header = size_of::<Header>() as u32;
    let due = RING_SIZE.div_ceil(header + "EACCES|".len() as u32) * header;
    check(taken == [u64::from(due)], || format!("{taken:?} bytes were taken; due were {due}"))?;
    let left = served.end(attacker)?;
    check(left == (false, RingError::NONE), || format!("{left:?}"))?;
    served.finish()
}

/// Has a guest say all of that, and checks what it is told.
fn talk(served: &Served, conversation: &Conversation) -> Result<(), Failed> {
    let mut code = Code::default();
    let attacker = served.build(code.find_store().exchange(conversation).park())?;
    attacker.guest.start()?;
    attacker.wait_until_parked(conversation)?;
    served.neighbour_goes_on()?;
    let left = served.end(attacker)?;
    check(left == (false, RingError::NONE), || format!("{left:?}"))
}

/// What a guest may have, by `docs/xenstore.md`.
const NODES: usize = 1000;
const TRANSACTIONS: usize = 10;
const WATCHES: usize = 128;
const NODE_BYTES: usize = 2048;
/// Nodes that are its own from the start.
const AT_HOME: usize = 10;

/// As many nodes and transactions as a guest may have it gets, and no more; nor a node that is too large.
fn nodes_and_transactions() -> Result<(), Failed> {
    let served = Served::new()?;
    let mut flood = Conversation::default();
    let folders = (0..40).map(|folder| format!("data/{folder}"));
    let leaves = (0..40).flat_map(|folder| (0..25).map(move |leaf| format!("data/{folder}/{leaf}")));
    for (made, path) in folders.chain(leaves).enumerate() {
        let due = if AT_HOME + made < NODES { "OK|" } else { "ENOSPC" };
        flood.ask(Type::MKDIR, &format!("{path}|"), due);
    }
    flood.ask(Type::WRITE, &format!("data/0|{}", "x".repeat(NODE_BYTES)), "ENOSPC");
    for number in 1..=2 * TRANSACTIONS {
        let due = if number <= TRANSACTIONS { format!("{number}|") } else { "ENOSPC".into() };
        flood.ask(Type::TRANSACTION_START, "|", &due);
    }
    // Others make nodes as before: the neighbour's rounds need no new one, this does.
    talk(&served, &flood)?;
    talk(&served, Conversation::default().ask(Type::MKDIR, "data/0|", "OK|"))?;
    served.finish()
}

/// As many watches as a guest may have it gets, and no more.
fn watches() -> Result<(), Failed> {
    let served = Served::new()?;
    let mut flood = Conversation::default();
    for number in 0..2 * WATCHES {
        let watch = format!("data|{number}|");
        if number < WATCHES {
            flood.ask(Type::WATCH, &watch, "OK|").event(&watch);
        } else {
            flood.ask(Type::WATCH, &watch, "E2BIG");
        }
    }
    talk(&served, &flood)?;
    served.finish()
}

/// What is the neighbour's or the host's can be neither read nor changed, and what is the toolstack's not asked for.
fn nodes_of_others() -> Result<(), Failed> {
    let served = Served::new()?;
    let neighbour = nodes_of(&served.neighbour);
    let mut wishes = Conversation::default();
    let secret = format!("{neighbour}/{SECRET}");
    for path in
        [secret.as_str(), &neighbour, &format!("{neighbour}/name"), "/local/domain/0/backend", "/", "/tool"]
    {
        for kind in [Type::READ, Type::DIRECTORY, Type::GET_PERMS, Type::RM] {
            wishes.ask(kind, &format!("{path}|"), "EACCES");
        }
        wishes.ask(Type::WRITE, &format!("{path}|mine"), "EACCES");
        wishes.ask(Type::MKDIR, &format!("{}/mine|", path.trim_end_matches('/')), "EACCES");
        wishes.ask(Type::SET_PERMS, &format!("{path}|b3|"), "EACCES");
    }
    for (path, kind) in [("name", Type::WRITE), ("domid", Type::WRITE), ("device/vbd", Type::MKDIR)] {
        wishes.ask(kind, &format!("{path}|"), "EACCES");
    }
    // By another way, as another, and for another to pay.
    wishes.ask(Type::READ, &format!("../2/{SECRET}|"), "EINVAL");
    for kind in [Type::CONTROL, Type::INTRODUCE, Type::RELEASE, Type::RESUME, Type::SET_TARGET] {
        wishes.ask(kind, "2|", "EACCES");
    }
    wishes.ask(Type::SET_PERMS, "data|n2|", "EPERM");
    talk(&served, &wishes)?;
    served.finish()
}

/// A watch of the neighbour's nodes can be set, and tells nothing while the neighbour writes there all the time.
fn watching_others() -> Result<(), Failed> {
    let served = Served::new()?;
    let (mut watch, mut own) = (Conversation::default(), Conversation::default());
    for path in [format!("{}/data", nodes_of(&served.neighbour)), "/local".into(), "/".into()] {
        watch.ask(Type::WATCH, &format!("{path}|t|"), "OK|").event(&format!("{path}|t|"));
    }
    own.ask(Type::READ, "name|", "tiny");
    let mut code = Code::default();
    let (watching, go_on) = (SCRATCH, SCRATCH + 8);
    code.find_store().exchange(&watch).increment(watching).await_poke(go_on).exchange(&own).park();
    let attacker = served.build(&code)?;
    attacker.guest.start()?;
    attacker.guest.wait_for(|| attacker.guest.peek(watching) == 1)?;
    (0..3).try_for_each(|_| served.neighbour_goes_on())?;
    attacker.guest.poke(go_on, &1u64);
    attacker.wait_until_parked(&own)?;
    served.end(attacker)?;
    served.finish()
}
