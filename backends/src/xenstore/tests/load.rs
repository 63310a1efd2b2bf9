//! What one guest's load costs others: so much work under the lock, and then it is their turn. Counted, never timed.

use super::*;
use crate::xenstore::watching::STEPS_OF_A_PIECE;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

const WATCHES: usize = 128;
const WRITES: usize = 930;

/// Requests of a guest with as many watches as it may have, and a transaction of about as many writes, but for its end.
fn load(ask: &mut dyn FnMut(u32, MessageType, &str) -> String) -> u32 {
    for number in 0..WATCHES {
        assert_eq!(ask(0, MessageType::WATCH, &format!("a|{number}|")), "OK|");
    }
    let transaction = ask(0, MessageType::TRANSACTION_START, "|").trim_end_matches('|').parse().unwrap();
    for number in 0..WRITES {
        let payload = format!("a/{}/{number}|x", number / 100);
        assert_eq!(ask(transaction, MessageType::WRITE, &payload), "OK|");
    }
    transaction
}

#[test]
fn many_changes_are_told_to_many_watches_in_bounded_pieces() {
    let mut setup = Setup::new();
    let (one, two) = (setup.one, setup.two);
    let transaction = load(&mut |transaction, of, payload| setup.ask_in(one, transaction, of, payload));
    setup.store.end_transaction(one, transaction, true).unwrap();
    let mut untold = setup.store.take_untold();
    let mut steps = Vec::new();
    while !untold.is_empty() {
        steps.push(setup.store.tell(&mut untold));
        // Others find the store whole between any two pieces, and their own events do not wait behind these.
        setup.ask(two, MessageType::WATCH, &format!("b|{}|", steps.len() % WATCHES));
        setup.events(two);
        assert_eq!(setup.ask(two, MessageType::WRITE, "b|x"), "OK|");
        assert!(setup.events(two).contains(&"b|1".into()));
    }
    let paths_of_a_change = 8;
    let longest = STEPS_OF_A_PIECE + WATCHES + paths_of_a_change;
    assert!(steps.iter().all(|&steps| steps <= longest), "{steps:?}");
    let all: usize = steps.iter().sum();
    assert!(all >= WRITES * WATCHES, "{all} steps tell nobody of some changes");
    let events = setup.events(one);
    assert!(events.iter().any(|event| event == "a/0/0|0") && events.contains(&"a|127".into()), "{events:?}");
}

/// A long path is looked for above itself many times over: that counts, whether anybody watches there or not.
#[test]
fn paths_that_nobody_watches_count_too() {
    let mut setup = Setup::new();
    let one = setup.one;
    let deep = vec!["a"; 900].join("/");
    assert_eq!(setup.ask(one, MessageType::MKDIR, &format!("{deep}|")), "OK|");
    let transaction = setup.start(one);
    for depth in 1..900 {
        let payload = format!("{}|x", deep.get(..2 * depth - 1).unwrap());
        assert_eq!(setup.ask_in(one, transaction, MessageType::WRITE, &payload), "OK|");
    }
    setup.store.end_transaction(one, transaction, true).unwrap();
    let mut untold = setup.store.take_untold();
    let mut pieces = 0;
    while !untold.is_empty() {
        setup.store.tell(&mut untold);
        pieces += 1;
    }
    let (paths, longest) = (900 * 900 / 2, STEPS_OF_A_PIECE + 900 + 8);
    assert!(pieces >= paths / longest, "{pieces}");
}

/// The lock is free whenever a piece was told: whoever is woken then can use the store at once.
#[test]
fn the_lock_is_given_back_between_two_pieces() {
    let handle = StoreHandle::default();
    handle.introduce(ONE).unwrap();
    let home = Path::home(ONE);
    handle.mkdir(home.as_str()).unwrap();
    handle.set_permissions(home.as_str(), Permissions::private(ONE)).unwrap();
    let (pieces, others) = (Arc::new(AtomicUsize::new(0)), handle.clone());
    let counted = Arc::clone(&pieces);
    let wake = Arc::new(move || {
        // It would wait for ever if the lock were held.
        others.read("/local").unwrap();
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let connection = handle.connect(Caller::Domain(ONE), wake).unwrap();
    let id = connection.id();
    let transaction = load(&mut |transaction, message_type, payload| {
        let payload = payload.replace('|', "\0");
        let header = Header { message_type, req_id: 1, tx_id: transaction, len: payload.len() as u32 };
        let reply = connection.with(|store| answer(store, id, header, payload.as_bytes()));
        String::from_utf8(reply[size_of::<Header>()..].to_vec()).unwrap().replace('\0', "|")
    });
    pieces.store(0, Ordering::SeqCst);
    connection.with(|store| store.end_transaction(id, transaction, true)).unwrap();
    let least = WRITES * WATCHES / (STEPS_OF_A_PIECE + WATCHES + 8);
    assert!(pieces.load(Ordering::SeqCst) >= least, "{pieces:?} of {least}");
}

/// Who was waiting comes before who had the lock and wants it again.
#[test]
fn the_lock_is_fair() {
    const CALLERS: usize = 3;
    for _ in 0..20 {
        let (handle, order) = (StoreHandle::default(), Arc::new(Mutex::new(Vec::new())));
        let call_twice = |caller| {
            let (handle, order) = (handle.clone(), Arc::clone(&order));
            let (says, hears) = mpsc::channel();
            let thread = std::thread::spawn(move || {
                says.send(rustix::thread::gettid()).unwrap();
                for _ in 0..2 {
                    handle.with(|_| order.lock().unwrap().push(caller));
                }
            });
            wait_until_asleep(hears.recv().unwrap());
            thread
        };
        let callers = handle.with(|_| [0, 1, 2].map(call_twice));
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        assert_eq!(order.lock().unwrap()[..CALLERS], [0, 1, 2]);
    }
}

/// Waits until a thread of this process sleeps, of which nothing else is expected any more.
fn wait_until_asleep(thread: rustix::thread::Pid) {
    let stat = format!("/proc/self/task/{thread}/stat");
    while !std::fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.starts_with('S') {
        std::thread::yield_now();
    }
}

/// What was readable before a change is told to who was there then, and not to who came before it was told.
#[test]
fn a_reused_number_is_not_told_of_what_its_last_bearer_could_read() {
    let mut setup = Setup::new();
    let (one, two) = (setup.one, setup.two);
    setup.ask(one, MessageType::MKDIR, "for-two|");
    setup.ask(one, MessageType::SET_PERMS, "for-two|n1|r2|");
    setup.ask(two, MessageType::WATCH, "/local/domain/1/for-two|w|");
    setup.events(two);
    setup.store.within(one, 0, |it| it.remove("for-two")).unwrap();
    let mut untold = setup.store.take_untold();
    setup.store.release(TWO);
    let two = introduce(&mut setup.store, TWO);
    setup.ask(two, MessageType::WATCH, "/local/domain/1/for-two|w|");
    assert_eq!(setup.events(two).len(), 1, "the first event of the new watch");
    setup.store.tell(&mut untold);
    assert!(untold.is_empty());
    assert_eq!(setup.events(two), [""; 0]);
}
