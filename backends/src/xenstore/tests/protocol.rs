//! Each request as Xen's documentation describes it, for clients that behave.

use super::*;

#[test]
fn values_are_written_and_read() {
    let mut setup = Setup::new();
    let one = setup.one;
    assert_eq!(setup.ask(one, MessageType::WRITE, "device/vbd/0/state|1"), "OK|");
    assert_eq!(setup.ask(one, MessageType::READ, "/local/domain/1/device/vbd/0/state|"), "1");
    assert_eq!(setup.ask(one, MessageType::READ, "device/vbd|"), "", "made on the way, and empty");
    assert_eq!(setup.try_ask(one, 0, MessageType::WRITE, b"binary\0\xff\0\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(setup.try_ask(one, 0, MessageType::READ, b"binary\0"), Ok(b"\xff\0\0".to_vec()));
    assert_eq!(setup.ask(one, MessageType::READ, "nothing|"), "ENOENT");
}

#[test]
fn mkdir_leaves_alone_what_is_there() {
    let mut setup = Setup::new();
    let one = setup.one;
    setup.ask(one, MessageType::WRITE, "a|value");
    assert_eq!(setup.ask(one, MessageType::MKDIR, "a|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::READ, "a|"), "value");
    assert_eq!(setup.ask(one, MessageType::MKDIR, "a/b/c|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::DIRECTORY, "a/b|"), "c|");
}

#[test]
fn removal_takes_all_below() {
    let mut setup = Setup::new();
    let one = setup.one;
    setup.ask(one, MessageType::MKDIR, "a/b/c|");
    setup.ask(one, MessageType::MKDIR, "ab|");
    assert_eq!(setup.ask(one, MessageType::RM, "a|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::DIRECTORY, "/local/domain/1|"), "ab|");
    assert_eq!(setup.ask(one, MessageType::RM, "a|"), "OK|", "gone already, but its parent is there");
    assert_eq!(setup.ask(one, MessageType::RM, "a/b|"), "ENOENT");
    assert_eq!(setup.ask(setup.host, MessageType::RM, "/|"), "EINVAL");
}

#[test]
fn directories_list_their_children() {
    let mut setup = Setup::new();
    let (one, host) = (setup.one, setup.host);
    assert_eq!(setup.ask(one, MessageType::DIRECTORY, "/local/domain/1|"), "");
    for name in ["b", "a", "c/d"] {
        setup.ask(one, MessageType::MKDIR, &format!("{name}|"));
    }
    assert_eq!(setup.ask(one, MessageType::DIRECTORY, "/local/domain/1|"), "a|b|c|");
    assert_eq!(setup.ask(host, MessageType::DIRECTORY, "/local/domain|"), "1|2|");
}

#[test]
fn permissions_are_inherited_and_the_caller_is_the_owner() {
    let mut setup = Setup::new();
    let (one, two, host) = (setup.one, setup.two, setup.host);
    setup.ask(one, MessageType::MKDIR, "shared|");
    assert_eq!(setup.ask(one, MessageType::SET_PERMS, "shared|n1|b2|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::GET_PERMS, "shared|"), "n1|b2|");
    assert_eq!(setup.ask(two, MessageType::WRITE, "/local/domain/1/shared/a/b|x"), "OK|");
    assert_eq!(setup.ask(two, MessageType::GET_PERMS, "/local/domain/1/shared/a/b|"), "n2|b2|");
    assert_eq!(setup.ask(one, MessageType::READ, "shared/a|"), "EACCES", "it is the other's");
    setup.ask(host, MessageType::MKDIR, "/local/domain/1/shared/c|");
    assert_eq!(setup.ask(host, MessageType::GET_PERMS, "/local/domain/1/shared/c|"), "n1|b2|");
}

#[test]
fn only_the_owner_sets_permissions_and_only_the_host_the_owner() {
    let mut setup = Setup::new();
    let (one, two, host) = (setup.one, setup.two, setup.host);
    setup.ask(one, MessageType::MKDIR, "a|");
    setup.ask(one, MessageType::SET_PERMS, "a|b1|");
    assert_eq!(setup.ask(two, MessageType::SET_PERMS, "/local/domain/1/a|b1|"), "EACCES");
    assert_eq!(setup.ask(one, MessageType::SET_PERMS, "a|b2|"), "EPERM");
    assert_eq!(setup.ask(one, MessageType::SET_PERMS, "a|b1|r0|r2|r2|r2|r2|"), "ENOSPC");
    assert_eq!(setup.ask(one, MessageType::SET_PERMS, "a|"), "EINVAL");
    assert_eq!(setup.ask(one, MessageType::SET_PERMS, "a|x1|"), "EINVAL");
    assert_eq!(setup.ask(host, MessageType::SET_PERMS, "/local/domain/1/a|b2|"), "OK|");
    assert_eq!(setup.ask(two, MessageType::SET_PERMS, "/local/domain/1/a|n2|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::READ, "a|"), "EACCES");
}

/// Who may not read a parent is not told what is missing in it.
#[test]
fn what_is_missing_is_told_only_to_who_may_know() {
    let mut setup = Setup::new();
    let (one, two) = (setup.one, setup.two);
    setup.ask(one, MessageType::MKDIR, "open|");
    setup.ask(one, MessageType::SET_PERMS, "open|r1|");
    assert_eq!(setup.ask(two, MessageType::READ, "/local/domain/1/open/a/b/c|"), "ENOENT");
    assert_eq!(setup.ask(two, MessageType::WRITE, "/local/domain/1/open/a/b/c|x"), "EACCES");
    assert_eq!(setup.ask(two, MessageType::READ, "/local/domain/1/closed/a|"), "EACCES");
    assert_eq!(setup.ask(two, MessageType::RM, "/local/domain/1/open/a|"), "EACCES");
}

#[test]
fn watches_fire_once_at_registration_and_then_at_changes() {
    let mut setup = Setup::new();
    let (one, host) = (setup.one, setup.host);
    assert_eq!(setup.ask(one, MessageType::WATCH, "a|token|"), "OK|");
    assert_eq!(setup.ask(host, MessageType::WATCH, "/local|all|"), "OK|");
    assert_eq!((setup.events(one), setup.events(host)), (vec!["a|token".into()], vec!["/local|all".into()]));
    setup.ask(one, MessageType::WRITE, "a/b|x");
    setup.ask(one, MessageType::WRITE, "ab|x");
    assert_eq!(setup.events(one), ["a/b|token"], "relative, as it was asked for");
    assert_eq!(setup.events(host), ["/local/domain/1/a/b|all", "/local/domain/1/ab|all"]);
    setup.ask(one, MessageType::MKDIR, "a|");
    assert_eq!(setup.events(one), [""; 0], "nothing changed");
    setup.ask(one, MessageType::SET_PERMS, "a|r1|");
    assert_eq!(setup.events(one), ["a|token"]);
    assert_eq!(setup.ask(one, MessageType::UNWATCH, "a|token|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::UNWATCH, "a|token|"), "ENOENT");
    setup.ask(one, MessageType::WRITE, "a|y");
    assert_eq!(setup.events(one), [""; 0]);
}

#[test]
fn watches_are_told_of_removal_by_their_own_path() {
    let mut setup = Setup::new();
    let (one, host) = (setup.one, setup.host);
    setup.ask(one, MessageType::MKDIR, "a/b/c|");
    for path in ["a/b|deep", "a/b/none|missing", "/local/domain/1|home"] {
        setup.ask(one, MessageType::WATCH, &format!("{path}|"));
    }
    setup.ask(host, MessageType::WATCH, "/local/domain/1/a/b/c|deepest|");
    setup.events(one);
    setup.events(host);
    setup.ask(one, MessageType::RM, "a|");
    assert_eq!(setup.events(one), ["/local/domain/1/a|home", "a/b|deep"]);
    assert_eq!(setup.events(host), ["/local/domain/1/a/b/c|deepest"]);
}

#[test]
fn a_watch_is_registered_once() {
    let mut setup = Setup::new();
    let (one, two) = (setup.one, setup.two);
    assert_eq!(setup.ask(one, MessageType::WATCH, "a|t|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::WATCH, "/local/domain/1/a|t|"), "EEXIST");
    assert_eq!(setup.ask(one, MessageType::WATCH, "a|other|"), "OK|");
    assert_eq!(setup.ask(two, MessageType::WATCH, "/local/domain/1/a|t|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::WATCH, "a|t2|reserved"), "OK|");
    for bad in ["a|", "a|t", "a//b|t|", "|t|", "a|t|3|"] {
        assert_eq!(setup.ask(one, MessageType::WATCH, bad), "EINVAL", "{bad}");
    }
}

#[test]
fn domains_that_come_and_go_are_told_of_by_special_watches() {
    let mut setup = Setup::new();
    let (one, host) = (setup.one, setup.host);
    for who in [one, host] {
        setup.ask(who, MessageType::WATCH, "@introduceDomain|in|");
        setup.ask(who, MessageType::WATCH, "@releaseDomain|out|");
        setup.events(who);
    }
    setup.store.introduce(DomId(3)).unwrap();
    assert_eq!(setup.events(host), ["@introduceDomain|in"]);
    assert_eq!(setup.ask(host, MessageType::GET_PERMS, "@releaseDomain|"), "n0|");
    assert_eq!(setup.ask(one, MessageType::SET_PERMS, "@releaseDomain|r0|"), "EACCES");
    assert_eq!(setup.ask(host, MessageType::SET_PERMS, "@releaseDomain|n0|r1|"), "OK|");
    setup.events(host);
    setup.events(one);
    setup.store.release(DomId(3));
    setup.store.release(TWO);
    assert_eq!(setup.events(host), ["@releaseDomain|out", "@releaseDomain|out"], "each counts");
    assert_eq!(setup.events(one), ["@releaseDomain|out", "@releaseDomain|out"], "it was allowed to");
    assert_eq!(setup.ask(host, MessageType::READ, "@releaseDomain|"), "EINVAL");
}

#[test]
fn a_transaction_happens_at_once_or_never() {
    let mut setup = Setup::new();
    let (one, host) = (setup.one, setup.host);
    setup.ask(host, MessageType::WATCH, "/local/domain/1|w|");
    setup.events(host);
    let transaction = setup.start(one);
    setup.ask_in(one, transaction, MessageType::WRITE, "a|1");
    setup.ask_in(one, transaction, MessageType::WRITE, "b|1");
    setup.ask_in(one, transaction, MessageType::WRITE, "a|2");
    assert_eq!(setup.ask_in(one, transaction, MessageType::READ, "a|"), "2");
    assert_eq!(setup.ask_in(one, transaction, MessageType::DIRECTORY, "/local/domain/1|"), "a|b|");
    assert_eq!(setup.ask(one, MessageType::READ, "a|"), "ENOENT");
    assert_eq!(setup.events(host), [""; 0]);
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::READ, "a|"), "2");
    assert_eq!(setup.events(host), ["/local/domain/1/a|w", "/local/domain/1/b|w"]);
    assert_eq!(
        setup.ask_in(one, transaction, MessageType::READ, "a|"),
        "ENOENT",
        "there is none such any more"
    );

    let transaction = setup.start(one);
    setup.ask_in(one, transaction, MessageType::RM, "a|");
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "F|"), "OK|");
    assert_eq!(setup.ask(one, MessageType::READ, "a|"), "2");
}

#[test]
fn a_transaction_that_was_overtaken_is_told_to_try_again() {
    let mut setup = Setup::new();
    let (one, host) = (setup.one, setup.host);
    setup.ask(one, MessageType::WRITE, "a|1");
    for (seen, changed, expected) in [
        (MessageType::READ, "/local/domain/1/a|2", "EAGAIN"),
        (MessageType::RM, "/local/domain/1/a|2", "EAGAIN"),
        (MessageType::READ, "/elsewhere|2", "OK|"),
    ] {
        let transaction = setup.start(one);
        setup.ask_in(one, transaction, seen, "a|");
        setup.ask(host, MessageType::WRITE, changed);
        assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|"), expected);
    }
    let transaction = setup.start(one);
    assert_eq!(setup.ask_in(one, transaction, MessageType::READ, "new|"), "ENOENT");
    setup.ask(one, MessageType::WRITE, "new|1");
    assert_eq!(
        setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|"),
        "EAGAIN",
        "absence was seen"
    );
}

#[test]
fn transactions_are_numbered_by_who_opened_them() {
    let mut setup = Setup::new();
    let (one, two) = (setup.one, setup.two);
    let transaction = setup.start(one);
    assert_eq!(setup.ask_in(two, transaction, MessageType::READ, "a|"), "ENOENT");
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_START, "|"), "EBUSY");
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "X|"), "EINVAL");
    assert_eq!(setup.ask_in(one, 0, MessageType::TRANSACTION_END, "T|"), "ENOENT");
    assert_eq!(setup.ask_in(one, transaction, MessageType::TRANSACTION_END, "T|"), "OK|");
}

#[test]
fn domains_are_known_by_number() {
    let mut setup = Setup::new();
    let one = setup.one;
    assert_eq!(setup.ask(one, MessageType::GET_DOMAIN_PATH, "7|"), "/local/domain/7|");
    for (domain, answer) in [("0|", "T|"), ("1|", "T|"), ("3|", "F|"), ("x|", "EINVAL"), ("1", "EINVAL")] {
        assert_eq!(setup.ask(one, MessageType::IS_DOMAIN_INTRODUCED, domain), answer);
    }
    assert_eq!(setup.store.introduce(ONE), Err(pv_abi::Errno::EEXIST));
    for number in [DomId::HOST, DomId::FIRST_RESERVED, DomId::SELF] {
        assert_eq!(setup.store.introduce(number), Err(pv_abi::Errno::EINVAL));
    }
    assert_eq!(setup.store.connect(Caller::Domain(ONE)), Err(pv_abi::Errno::EISCONN));
    assert_eq!(setup.store.connect(Caller::Domain(DomId(9))), Err(pv_abi::Errno::ENOENT));
}

#[test]
fn what_the_toolstack_does_is_not_for_guests() {
    let mut setup = Setup::new();
    for of in [
        MessageType::CONTROL,
        MessageType::INTRODUCE,
        MessageType::RELEASE,
        MessageType::RESUME,
        MessageType::SET_TARGET,
    ] {
        assert_eq!(setup.ask(setup.one, of, "1|"), "EACCES", "{of}");
        assert_eq!(setup.ask(setup.host, of, "1|"), "ENOSYS", "{of}");
    }
    for of in [
        MessageType(20),
        MessageType::WATCH_EVENT,
        MessageType::ERROR,
        MessageType(23),
        MessageType(u32::MAX),
    ] {
        assert_eq!(setup.ask(setup.one, of, "1|"), "ENOSYS", "{of}");
    }
}

#[test]
fn a_reset_ends_watches_and_transactions() {
    let mut setup = Setup::new();
    let one = setup.one;
    setup.ask(one, MessageType::WATCH, "a|t|");
    let transaction = setup.start(one);
    assert_eq!(setup.ask(one, MessageType::RESET_WATCHES, "|"), "OK|");
    setup.ask(one, MessageType::WRITE, "a|1");
    assert_eq!(setup.events(one), [""; 0]);
    assert_eq!(setup.ask_in(one, transaction, MessageType::READ, "a|"), "ENOENT");
    // It may have as many anew as before.
    for round in 0..2 {
        for number in 0..128 {
            assert_eq!(setup.ask(one, MessageType::WATCH, &format!("a|{number}|")), "OK|", "{round}");
        }
        setup.ask(one, MessageType::RESET_WATCHES, "|");
    }
}

#[test]
fn payloads_are_strings_with_their_ends() {
    let mut setup = Setup::new();
    for of in [
        MessageType::READ,
        MessageType::DIRECTORY,
        MessageType::RM,
        MessageType::MKDIR,
        MessageType::GET_PERMS,
    ] {
        for bad in ["", "a", "|", "a|b|", "a|b", "/local/domain/|"] {
            assert_eq!(setup.ask(setup.one, of, bad), "EINVAL", "{of} {bad:?}");
        }
    }
    assert_eq!(setup.ask(setup.one, MessageType::WRITE, "a"), "EINVAL");
}

/// Lists that no message holds: DIRECTORY refuses, and parts put together give the list.
#[test]
fn long_lists_come_in_parts() {
    let mut setup = Setup::new();
    let host = setup.host;
    let names: Vec<String> = (0..1000).map(|number| format!("name-{number:05}")).collect();
    for name in &names {
        setup.store.operate(Caller::Privileged, |it| it.mkdir(format!("/big/{name}"))).unwrap();
    }
    assert_eq!(setup.ask(host, MessageType::DIRECTORY, "/big|"), "E2BIG");
    let (mut list, mut generations) = (String::new(), Vec::new());
    while !list.ends_with("||") {
        let part = setup.ask(host, MessageType::DIRECTORY_PART, &format!("/big|{}|", list.len()));
        let (generation, names) = part.split_once('|').unwrap();
        generations.push(generation.to_owned());
        list += names;
    }
    assert_eq!(list.split_terminator('|').filter(|name| !name.is_empty()).collect::<Vec<_>>(), names);
    assert!(generations.len() > 1 && generations.iter().all(|it| *it == generations[0]));
    setup.ask(host, MessageType::MKDIR, "/big/another|");
    let part = setup.ask(host, MessageType::DIRECTORY_PART, "/big|999999|");
    assert!(part.ends_with("||") && !part.starts_with(&generations[0]), "{part}");
    assert_eq!(setup.ask(host, MessageType::DIRECTORY_PART, "/big|x|"), "EINVAL");
}
