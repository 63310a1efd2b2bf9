//! The streams of a connection, fed with bytes cut anywhere.

use super::*;
use crate::xenstore::request::message;
use crate::xenstore::wire::{Released, TooLong, Wire};

fn request(message_type: MessageType, req_id: u32, payload: &[u8]) -> Vec<u8> {
    message(Header { message_type, req_id, tx_id: 0, len: 0 }, payload)
}

/// Feeds `input` in pieces of the given lengths, over and over, and returns all output as messages.
fn exchange(
    setup: &mut Setup,
    wire: &mut Wire,
    mut input: &[u8],
    pieces: &[usize],
) -> Vec<(MessageType, u32, String)> {
    let (mut output, mut pieces) = (Vec::new(), pieces.iter().copied().cycle());
    loop {
        let piece = pieces.next().unwrap();
        let taken = wire.receive(&input[..piece.min(input.len())]).unwrap();
        input = &input[taken..];
        let advanced = wire.advance(&mut setup.store).unwrap();
        setup.store.tell_all();
        let sent = wire.output().len().min(piece);
        output.extend_from_slice(&wire.output()[..sent]);
        wire.sent(sent);
        if input.is_empty() && !advanced && wire.output().is_empty() {
            return messages(&output);
        }
    }
}

fn messages(mut bytes: &[u8]) -> Vec<(MessageType, u32, String)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = Header::read_from_prefix(bytes).unwrap();
        let (payload, rest) = rest.split_at(header.len as usize);
        found.push((header.message_type, header.req_id, String::from_utf8_lossy(payload).replace('\0', "|")));
        bytes = rest;
    }
    found
}

#[test]
fn messages_may_be_cut_anywhere() {
    let input = [
        request(MessageType::WRITE, 1, b"a\0value"),
        request(MessageType::WATCH, 2, b"a\0token\0"),
        request(MessageType::READ, 3, b"a\0"),
        request(MessageType::READ, 4, b"none\0"),
        request(MessageType::TRANSACTION_START, 5, b""),
    ]
    .concat();
    let whole = {
        let mut setup = Setup::new();
        let mut wire = Wire::new(setup.one);
        exchange(&mut setup, &mut wire, &input, &[usize::MAX])
    };
    let expected = [
        (MessageType::WRITE, 1, "OK|".to_owned()),
        (MessageType::WATCH, 2, "OK|".to_owned()),
        (MessageType::READ, 3, "value".to_owned()),
        (MessageType::ERROR, 4, "ENOENT|".to_owned()),
        (MessageType::TRANSACTION_START, 5, "1|".to_owned()),
    ];
    let replies = |of: &[(MessageType, u32, String)]| {
        of.iter().filter(|it| it.0 != MessageType::WATCH_EVENT).cloned().collect::<Vec<_>>()
    };
    assert_eq!(replies(&whole), expected);
    for pieces in [&[1][..], &[7], &[15, 2], &[16], &[17], &[1, 0, 40]] {
        let mut setup = Setup::new();
        let mut wire = Wire::new(setup.one);
        let parts = exchange(&mut setup, &mut wire, &input, pieces);
        assert_eq!(replies(&parts), expected, "{pieces:?}");
        let at = |what| parts.iter().position(|it| it.0 == what).unwrap();
        assert!(at(MessageType::WATCH) < at(MessageType::WATCH_EVENT), "the reply comes first");
        assert_eq!(parts.len(), expected.len() + 1);
    }
}

#[test]
fn an_event_that_a_request_causes_comes_behind_its_reply() {
    let mut setup = Setup::new();
    let mut wire = Wire::new(setup.one);
    exchange(&mut setup, &mut wire, &request(MessageType::WATCH, 1, b"a\0t\0"), &[99]);
    let input = [request(MessageType::WRITE, 2, b"a\0x"), request(MessageType::RM, 3, b"a\0")].concat();
    let all = exchange(&mut setup, &mut wire, &input[..], &[usize::MAX]);
    let kinds: Vec<_> = all.iter().map(|(kind, id, _)| (*kind, *id)).collect();
    let (write, event) = ((MessageType::WRITE, 2), (MessageType::WATCH_EVENT, 0));
    assert_eq!(kinds[0], write);
    assert!(kinds.contains(&event));
}

#[test]
fn an_absurd_length_ends_the_connection() {
    for length in [PAYLOAD_MAX + 1, 1 << 31, u32::MAX] {
        let setup = Setup::new();
        let mut wire = Wire::new(setup.one);
        let mut bytes = request(MessageType::READ, 1, b"");
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        assert_eq!(wire.receive(&bytes[..15]), Ok(15));
        let error = wire.receive(&bytes[15..]).unwrap_err();
        assert_eq!(error, TooLong { message_type: MessageType::READ, length });
        assert_eq!(
            error.to_string(),
            format!("a request of type READ with {length} bytes, where 4096 are allowed")
        );
    }
}

#[test]
fn the_longest_payload_is_answered() {
    let mut setup = Setup::new();
    let mut wire = Wire::new(setup.one);
    let input = request(MessageType::WRITE, 1, &[&b"a\0"[..], &[b'v'; 4094]].concat());
    let all = exchange(&mut setup, &mut wire, &input, &[usize::MAX]);
    assert_eq!(all, [(MessageType::ERROR, 1, "ENOSPC|".to_owned())]);
}

/// A client that takes no replies gets no further requests in, and nothing piles up.
#[test]
fn who_does_not_read_is_not_heard() {
    let mut setup = Setup::new();
    let mut wire = Wire::new(setup.one);
    let input = request(MessageType::WRITE, 1, b"a\0x");
    assert_eq!(wire.receive(&input), Ok(16), "never more than a header, or what it announces");
    assert_eq!(wire.receive(&input[16..]), Ok(input.len() - 16));
    assert_eq!(wire.advance(&mut setup.store), Ok(true));
    let reply = wire.output().len();
    for _ in 0..10 {
        assert_eq!((wire.wanted(), wire.receive(&input)), (0, Ok(0)));
        assert_eq!(wire.advance(&mut setup.store), Ok(false));
        assert_eq!(wire.output().len(), reply);
    }
    wire.sent(reply);
    assert_eq!(wire.wanted(), 16);
}

#[test]
fn a_released_domain_is_heard_no_more() {
    let mut setup = Setup::new();
    let mut wire = Wire::new(setup.one);
    setup.store.release(ONE);
    assert_eq!(wire.advance(&mut setup.store), Err(Released));
}
