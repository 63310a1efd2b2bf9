//! Guests that want more than is theirs: a test for each lesson of Xen's advisories on its store.

use super::*;
use crate::xenstore::permissions::Need;

/// Watches that told of nodes which their owners could not read.
#[test]
fn a_watch_tells_nothing_of_what_its_owner_may_not_read() {
    let mut setup = Setup::new();
    let (one, two) = (setup.one, setup.two);
    for path in ["/", "/local/domain/1", "/local/domain/1/secret"] {
        setup.ask(two, MessageType::WATCH, &format!("{path}|{path}|"));
    }
    setup.events(two);
    setup.ask(one, MessageType::WRITE, "secret|x");
    setup.ask(one, MessageType::RM, "secret|");
    let transaction = setup.start(one);
    setup.ask_in(one, transaction, MessageType::WRITE, "secret/deeper|x");
    setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|");
    assert_eq!(setup.events(two), [""; 0]);
    setup.ask(one, MessageType::SET_PERMS, "secret|r1|");
    assert_eq!(setup.events(two).len(), 3, "now it may");
    setup.ask(one, MessageType::SET_PERMS, "secret|n1|");
    assert_eq!(setup.events(two).len(), 3, "it could until now");
    setup.ask(one, MessageType::WRITE, "secret|y");
    assert_eq!(setup.events(two), [""; 0]);
}

/// A domain's number that is used again came with the nodes and rights of its last bearer.
#[test]
fn a_reused_number_inherits_nothing() {
    let mut setup = Setup::new();
    let (one, two, host) = (setup.one, setup.two, setup.host);
    for (who, request, payload) in [
        (one, MessageType::MKDIR, "for-two/below|"),
        (one, MessageType::SET_PERMS, "for-two|n1|b2|"),
        (one, MessageType::MKDIR, "all|"),
        (one, MessageType::SET_PERMS, "all|b1|"),
        (two, MessageType::MKDIR, "/local/domain/1/all/of-two/deep|"),
        (two, MessageType::WATCH, "/local/domain/1/all|w|"),
        (host, MessageType::MKDIR, "/backend/2|"),
        (host, MessageType::SET_PERMS, "/backend/2|n0|r2|"),
        (host, MessageType::SET_PERMS, "@releaseDomain|n0|r2|"),
    ] {
        assert_eq!(setup.ask(who, request, payload), "OK|", "{payload}");
    }
    let transaction = setup.start(two);
    setup.store.release(TWO);
    assert_eq!(setup.ask(two, MessageType::READ, "a|"), "EIO", "its connection is gone");
    assert_eq!(setup.store.next_event(two), None);
    assert_eq!(setup.ask(one, MessageType::DIRECTORY, "/local/domain/1/all|"), "", "its nodes are gone");
    assert_eq!(setup.ask(host, MessageType::DIRECTORY, "/local/domain|"), "1|", "wherever they were");
    assert_eq!(setup.ask(one, MessageType::GET_PERMS, "for-two|"), "n1|");
    assert_eq!(setup.ask(host, MessageType::GET_PERMS, "/backend/2|"), "n0|");
    assert_eq!(setup.ask(host, MessageType::GET_PERMS, "@releaseDomain|"), "n0|");

    let two = introduce(&mut setup.store, TWO);
    assert_eq!(setup.ask(two, MessageType::READ, "/local/domain/1/for-two|"), "EACCES");
    assert_eq!(setup.ask(two, MessageType::READ, "/backend/2|"), "EACCES");
    assert_eq!(setup.ask_in(two, transaction, MessageType::READ, "a|"), "ENOENT");
    setup.ask(one, MessageType::WRITE, "all|x");
    assert_eq!(setup.events(two), [""; 0]);
    assert!(setup.store.tree.naming(TWO).len() == 1, "its new home");
}

/// Not even what can't be removed stays with a domain that is gone.
#[test]
fn the_root_returns_to_the_host() {
    let mut setup = Setup::new();
    let host = setup.host;
    for name in ["/", "@releaseDomain"] {
        assert_eq!(setup.ask(host, MessageType::SET_PERMS, &format!("{name}|n2|r1|")), "OK|");
    }
    setup.store.release(TWO);
    for name in ["/", "@releaseDomain"] {
        assert_eq!(setup.ask(host, MessageType::GET_PERMS, &format!("{name}|")), "n0|");
    }
}

/// Rights for a number that nobody has yet would wait for whoever gets it.
#[test]
fn nothing_can_be_left_for_a_domain_to_come() {
    let mut setup = Setup::new();
    let one = setup.one;
    setup.ask(one, MessageType::MKDIR, "trap|");
    assert_eq!(setup.ask(one, MessageType::SET_PERMS, "trap|n1|b3|r2|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::GET_PERMS, "trap|"), "n1|r2|");
    setup.ask(one, MessageType::MKDIR, "other|");
    let transaction = setup.start(one);
    setup.ask_in(one, transaction, MessageType::SET_PERMS, "other|n1|b2|");
    setup.store.release(TWO);
    introduce(&mut setup.store, TWO);
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|"), "EAGAIN");
    assert_eq!(setup.ask(one, MessageType::GET_PERMS, "other|"), "n1|");
}

/// Nodes that outlived their owners let guests fill the store by coming and going.
#[test]
fn coming_and_going_leaves_nothing() {
    let mut setup = Setup::new();
    let one = setup.one;
    setup.ask(one, MessageType::MKDIR, "all|");
    setup.ask(one, MessageType::SET_PERMS, "all|b1|");
    let before = setup.store.tree.dump().len();
    setup.store.release(TWO);
    for _ in 0..20 {
        let two = introduce(&mut setup.store, TWO);
        for number in 0..10 {
            let payload = format!("/local/domain/1/all/{number}/x|value");
            assert_eq!(setup.ask(two, MessageType::WRITE, &payload), "OK|");
        }
        assert_eq!(setup.ask(two, MessageType::WATCH, "/local/domain/1/all|w|"), "OK|");
        setup.store.release(TWO);
    }
    assert_eq!(setup.store.tree.dump().len(), before - 1, "and the home of the first is gone too");
    assert_eq!(setup.store.watches.of("/local/domain/1/all").count(), 0);
}

#[test]
fn a_guest_has_so_many_nodes_and_bytes_and_no_more() {
    let quota = Quota { nodes: 10, bytes: 8000, ..Quota::default() };
    let mut setup = Setup::with_quota(quota);
    let (one, two) = (setup.one, setup.two);
    for number in 0..9 {
        assert_eq!(setup.ask(one, MessageType::MKDIR, &format!("{number}|")), "OK|");
    }
    assert_eq!(setup.ask(one, MessageType::MKDIR, "x|"), "ENOSPC");
    assert_eq!(setup.ask(one, MessageType::READ, "x|"), "ENOENT");
    setup.ask(one, MessageType::RM, "8|");
    assert_eq!(setup.ask(one, MessageType::MKDIR, "x/y|"), "ENOSPC", "two are one too many");
    assert_eq!(setup.ask(one, MessageType::READ, "x|"), "ENOENT", "and not half of it is there");
    assert_eq!(setup.ask(one, MessageType::MKDIR, "x|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::WRITE, "0|value"), "OK|");
    assert_eq!(setup.ask(setup.host, MessageType::MKDIR, "/local/domain/1/host|"), "OK|", "the host may");
    assert_eq!(setup.ask(one, MessageType::WRITE, "0|another"), "ENOSPC", "it has too much already");
    assert_eq!(setup.ask(one, MessageType::WRITE, "0|v"), "OK|", "it may have less");

    for (number, expected) in ["OK|", "OK|", "OK|", "ENOSPC"].into_iter().enumerate() {
        let value = "v".repeat(2000);
        assert_eq!(setup.ask(two, MessageType::WRITE, &format!("{number}|{value}")), expected);
    }
    assert_eq!(setup.ask(two, MessageType::WRITE, "0|short"), "OK|");
    let value = "v".repeat(2000);
    assert_eq!(setup.ask(two, MessageType::WRITE, &format!("3|{value}")), "OK|");
}

#[test]
fn a_node_has_a_greatest_size() {
    let mut setup = Setup::new();
    let one = setup.one;
    assert_eq!(setup.ask(one, MessageType::WRITE, &format!("a|{}", "v".repeat(2044))), "OK|");
    assert_eq!(setup.ask(one, MessageType::WRITE, &format!("a|{}", "v".repeat(2045))), "ENOSPC");
    assert_eq!(setup.ask(one, MessageType::WRITE, &format!("b|{}", "v".repeat(2045))), "ENOSPC");
    let made = (0..1000).take_while(|number| {
        setup.ask(one, MessageType::MKDIR, &format!("dir/a-name-of-23-bytes-{number:04}|")) == "OK|"
    });
    assert_eq!(made.count(), 2044 / 24, "the names of children count");
}

/// Quotas that were looked at before a transaction, but not when it ended.
#[test]
fn transactions_together_cannot_exceed_a_quota() {
    let mut setup = Setup::with_quota(Quota { nodes: 10, ..Quota::default() });
    let (one, two) = (setup.one, setup.two);
    for home in ["a", "b", "c"] {
        setup.ask(one, MessageType::MKDIR, &format!("{home}|"));
    }
    let open = ["a", "b", "c"].map(|home| (home, setup.start(one)));
    for (home, transaction) in open {
        for number in 0..6 {
            assert_eq!(
                setup.ask_in(one, transaction, MessageType::MKDIR, &format!("{home}/{number}|")),
                "OK|"
            );
        }
        assert_eq!(setup.ask_in(one, transaction, MessageType::MKDIR, &format!("{home}/x|")), "ENOSPC");
    }
    let ends = open.map(|(_, it)| setup.ask_in(one, it, MessageType::TRANSACTION_END, "T|"));
    assert_eq!(ends, ["OK|", "ENOSPC", "ENOSPC"]);
    // What is removed in a transaction that is dropped makes no room.
    for _ in 0..5 {
        let transaction = setup.start(one);
        setup.ask_in(one, transaction, MessageType::RM, "a|");
        setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "F|");
    }
    assert_eq!(setup.ask(one, MessageType::MKDIR, "more|"), "ENOSPC");
    assert_eq!(setup.ask(two, MessageType::MKDIR, "mine|"), "OK|");
}

/// A request that failed in the middle left nodes that nobody listed. (`ask` looks for those each time.)
#[test]
fn what_fails_is_not_half_done() {
    let mut setup = Setup::with_quota(Quota { transaction_nodes: 12, ..Quota::default() });
    let one = setup.one;
    for number in 0..20 {
        setup.ask(one, MessageType::MKDIR, &format!("a/b/{number}|"));
    }
    let before = setup.store.tree.dump();
    let transaction = setup.start(one);
    assert_eq!(setup.ask_in(one, transaction, MessageType::RM, "a/b|"), "ENOSPC");
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|"), "OK|");
    let transaction = setup.start(one);
    assert_eq!(
        setup.ask_in(one, transaction, MessageType::MKDIR, &format!("x{}|", "/x".repeat(20))),
        "ENOSPC"
    );
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|"), "OK|");
    assert_eq!(setup.store.tree.dump(), before);
    assert_eq!(setup.ask(one, MessageType::RM, "a/b|"), "OK|", "outside there is no such limit");
}

#[test]
fn transactions_hold_so_much_and_no_more() {
    let quota = Quota { transactions: 3, transaction_nodes: 8, transaction_bytes: 9000, ..Quota::default() };
    let mut setup = Setup::with_quota(quota);
    let one = setup.one;
    let open = [(); 3].map(|()| setup.start(one));
    assert_eq!(setup.ask(one, MessageType::TRANSACTION_START, "|"), "ENOSPC");
    let looks = (0..20).map(|number| setup.ask_in(one, open[0], MessageType::READ, &format!("{number}|")));
    assert_eq!(looks.filter(|answer| answer == "ENOSPC").count(), 13);
    let value = "v".repeat(2000);
    let mut writes = Vec::new();
    for round in 0..4 {
        for transaction in &open[1..] {
            writes.push(setup.ask_in(one, *transaction, MessageType::WRITE, &format!("v{round}|{value}")));
        }
    }
    assert!(writes.iter().filter(|answer| *answer == "OK|").count() < 6, "{writes:?}");
    assert_eq!(setup.ask_in(one, open[2], MessageType::TRANSACTION_END, "F|"), "OK|");
    setup.start(one);
}

/// Nodes that were looked at while they were small, and grew.
#[test]
fn what_a_transaction_writes_is_held_too() {
    let mut setup = Setup::with_quota(Quota { transaction_bytes: 9000, ..Quota::default() });
    let one = setup.one;
    for number in 0..20 {
        setup.ask(one, MessageType::MKDIR, &format!("{number}|"));
    }
    let transaction = setup.start(one);
    for number in 0..20 {
        assert_eq!(setup.ask_in(one, transaction, MessageType::READ, &format!("{number}|")), "");
    }
    let value = "v".repeat(2000);
    let writes = (0..20)
        .map(|number| setup.ask_in(one, transaction, MessageType::WRITE, &format!("{number}|{value}")));
    assert!(writes.filter(|answer| answer == "OK|").count() <= 5);
}

#[test]
fn a_guest_has_so_many_watches_and_no_more() {
    let mut setup = Setup::new();
    let (one, two) = (setup.one, setup.two);
    for number in 0..128 {
        assert_eq!(setup.ask(one, MessageType::WATCH, &format!("a|{number}|")), "OK|");
    }
    assert_eq!(setup.ask(one, MessageType::WATCH, "a|x|"), "E2BIG");
    assert_eq!(setup.ask(two, MessageType::WATCH, "a|x|"), "OK|");
    setup.ask(one, MessageType::UNWATCH, "a|0|");
    assert_eq!(setup.ask(one, MessageType::WATCH, "a|x|"), "OK|");
}

/// Events piled up for guests that did not take them.
#[test]
fn events_that_nobody_takes_are_merged() {
    let quota = Quota { events: 16, ..Quota::default() };
    let mut setup = Setup::with_quota(quota);
    let (one, host) = (setup.one, setup.host);
    setup.ask(one, MessageType::WATCH, "a|t|");
    setup.ask(one, MessageType::WATCH, "@releaseDomain|r|");
    setup.ask(host, MessageType::SET_PERMS, "@releaseDomain|n0|r1|");
    setup.events(one);
    for _ in 0..1000 {
        setup.ask(host, MessageType::WRITE, "/local/domain/1/a/same|x");
    }
    assert_eq!(setup.store.waiting(one), 1, "one that waits already says it all");
    for number in 0..200 {
        setup.ask(host, MessageType::WRITE, &format!("/local/domain/1/a/{number}|x"));
        setup.store.introduce(DomId(100 + number)).unwrap();
        setup.store.release(DomId(100 + number));
    }
    assert!(setup.store.waiting(one) <= 16 + 2);
    let events = setup.events(one);
    assert!(events.contains(&"a|t".into()), "the watch's own path stands for what was left out: {events:?}");
    assert!(events.contains(&"@releaseDomain|r".into()));
    setup.ask(host, MessageType::WRITE, "/local/domain/1/a/9|x");
    assert_eq!(setup.events(one), ["a/9|t"]);
}

/// An event that is longer than a message may be.
#[test]
fn an_event_that_is_too_long_names_the_watched_path() {
    let mut setup = Setup::new();
    let one = setup.one;
    let token = "t".repeat(4000);
    assert_eq!(setup.ask(one, MessageType::WATCH, &format!("a|{token}|")), "OK|");
    setup.events(one);
    setup.ask(one, MessageType::WRITE, &format!("a/{}|x", "b".repeat(200)));
    assert_eq!(setup.events(one), [format!("a|{token}")]);
}

/// Depth that a guest chooses was recursion, and the stack ran out.
#[test]
fn no_depth_needs_a_deep_stack() {
    let deep = |setup: &mut Setup, who, of| setup.try_ask(who, 0, of, format!("{}a\0", "a/".repeat(1000)));
    let attack = move || {
        let mut setup =
            Setup::with_quota(Quota { nodes: 5000, transaction_bytes: 8 << 20, ..Quota::default() });
        let one = setup.one;
        deep(&mut setup, one, MessageType::MKDIR).unwrap();
        deep(&mut setup, one, MessageType::WATCH).unwrap_err();
        let transaction = setup.start(one);
        assert_eq!(setup.ask_in(one, transaction, MessageType::RM, "a|"), "OK|");
        setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|");
        deep(&mut setup, one, MessageType::MKDIR).unwrap();
        setup.store.release(ONE);
        setup.store.tree.audit();
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(attack).unwrap().join().unwrap();
}

/// With no rights in `/` nobody gets any by asking.
#[test]
fn the_root_is_the_hosts() {
    let mut setup = Setup::new();
    let one = setup.one;
    for (of, payload) in [
        (MessageType::READ, "/|"),
        (MessageType::DIRECTORY, "/local|"),
        (MessageType::WRITE, "/x|y"),
        (MessageType::MKDIR, "/local/domain/3|"),
        (MessageType::RM, "/local|"),
        (MessageType::RM, "/local/domain/2|"),
        (MessageType::SET_PERMS, "/|n1|"),
        (MessageType::SET_PERMS, "/local/domain/2|n1|"),
        (MessageType::GET_PERMS, "@introduceDomain|"),
        (MessageType::GET_PERMS, "@other|"),
    ] {
        assert_eq!(setup.ask(one, of, payload), "EACCES", "{of} {payload}");
    }
    let root = setup.store.tree.get("/").unwrap();
    assert!(!root.permissions.allow(Caller::Domain(ONE), Need::Read));
}

/// A reset within a transaction, which ends that very transaction.
#[test]
fn a_reset_may_come_in_a_transaction() {
    let mut setup = Setup::new();
    let one = setup.one;
    let transaction = setup.start(one);
    setup.ask_in(one, transaction, MessageType::WRITE, "a|x");
    assert_eq!(setup.ask_in(one, transaction, MessageType::RESET_WATCHES, "|"), "OK|");
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|"), "ENOENT");
    assert_eq!(setup.ask(one, MessageType::READ, "a|"), "ENOENT");
}

/// Any bytes as any request, in any transaction: an answer each time, and a store that is whole (`try_ask` looks).
#[test]
fn no_bytes_break_the_store() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let words: &[&[u8]] = &[
        b"a",
        b"/",
        b"\0",
        b"@",
        b"/local/domain/",
        b"1",
        b"T",
        b"n1",
        b"\xff",
        b"a/b\0",
        b"-",
        b"@releaseDomain",
    ];
    let mut setup = Setup::with_quota(Quota { nodes: 20, watches: 5, ..Quota::default() });
    for _ in 0..20_000 {
        let payload: Vec<u8> = (0..random.below(6)).flat_map(|_| random.pick(words)).copied().collect();
        let who = random.pick(&[setup.one, setup.two]);
        let message_type = MessageType(random.below(25) as u32);
        let transaction = random.pick(&[0, 0, 1, 2, u32::MAX]);
        let _ = setup.try_ask(who, transaction, message_type, payload);
        assert!(setup.store.waiting(who) <= 256 + 5);
    }
}
