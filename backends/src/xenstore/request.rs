//! Requests of the wire protocol, and their answers.

use super::path::Path;
use super::permissions::{Permissions, parse_domain};
use super::store::Store;
use super::{Caller, ConnectionId};
use pv_abi::Errno;
use pv_abi::io::xenstore::{Header, MessageType, PAYLOAD_MAX};
use zerocopy::IntoBytes;

/// Answers a request: the bytes of the reply.
pub(super) fn answer(store: &mut Store, id: ConnectionId, request: Header, payload: &[u8]) -> Vec<u8> {
    let answer = perform(store, id, &request, payload);
    let answer = answer.and_then(|reply| match reply.len() > PAYLOAD_MAX as usize {
        true => Err(Errno::E2BIG),
        false => Ok(reply),
    });
    match answer {
        Ok(reply) => message(request, &reply),
        Err(error) => {
            let name = error.name().unwrap_or("EIO");
            message(Header { message_type: MessageType::ERROR, ..request }, &[name.as_bytes(), &[0]].concat())
        }
    }
}

/// A message's bytes; the header's length is made right.
pub(super) fn message(header: Header, payload: &[u8]) -> Vec<u8> {
    let header = Header { len: payload.len() as u32, ..header };
    [header.as_bytes(), payload].concat()
}

const OK: &[u8] = b"OK\0";

fn perform(store: &mut Store, id: ConnectionId, request: &Header, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    let transaction = request.tx_id;
    let done = |()| OK.to_vec();
    match request.message_type {
        MessageType::READ => {
            store.within(id, transaction, |it| it.read(only(payload)?)).map(|value| value.to_vec())
        }
        MessageType::WRITE => store
            .within(id, transaction, |it| {
                let (path, value) = first(payload)?;
                it.write(path, value)
            })
            .map(done),
        MessageType::MKDIR => store.within(id, transaction, |it| it.mkdir(only(payload)?)).map(done),
        MessageType::RM => store.within(id, transaction, |it| it.remove(only(payload)?)).map(done),
        MessageType::DIRECTORY => {
            let children = store.within(id, transaction, |it| it.directory(only(payload)?))?;
            Ok(children.names.iter().flat_map(|name| [name.as_bytes(), &[0]].concat()).collect())
        }
        MessageType::DIRECTORY_PART => directory_part(store, id, transaction, payload),
        MessageType::GET_PERMS => {
            store.within(id, transaction, |it| it.permissions(only(payload)?)).map(|found| found.to_wire())
        }
        MessageType::SET_PERMS => {
            let (path, list) = first(payload)?;
            store.set_permissions(id, transaction, path, Permissions::parse(list)?).map(done)
        }
        MessageType::TRANSACTION_START if transaction != 0 => Err(Errno::EBUSY),
        MessageType::TRANSACTION_START => {
            store.start_transaction(id).map(|number| format!("{number}\0").into_bytes())
        }
        MessageType::TRANSACTION_END => {
            store.end_transaction(id, transaction, truth(only(payload)?).ok_or(Errno::EINVAL)?).map(done)
        }
        _ => perform_outside(store, id, request.message_type, payload),
    }
}

/// Requests that are about no node, and in no transaction.
fn perform_outside(
    store: &mut Store,
    id: ConnectionId,
    request: MessageType,
    payload: &[u8],
) -> Result<Vec<u8>, Errno> {
    let done = |()| OK.to_vec();
    let domain = || parse_domain(only(payload)?).ok_or(Errno::EINVAL);
    match request {
        MessageType::WATCH => two(payload).and_then(|(path, token)| store.watch(id, path, token)).map(done),
        MessageType::UNWATCH => {
            two(payload).and_then(|(path, token)| store.unwatch(id, path, token)).map(done)
        }
        MessageType::RESET_WATCHES => store.reset(id).map(done),
        MessageType::GET_DOMAIN_PATH => Ok(format!("{}\0", Path::home(domain()?)).into_bytes()),
        MessageType::IS_DOMAIN_INTRODUCED => {
            Ok(if store.is_introduced(domain()?) { b"T\0" } else { b"F\0" }.to_vec())
        }
        // The toolstack is in this process and does without these.
        MessageType::CONTROL
        | MessageType::INTRODUCE
        | MessageType::RELEASE
        | MessageType::RESUME
        | MessageType::SET_TARGET
            if store.caller(id)? != Caller::Privileged =>
        {
            Err(Errno::EACCES)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// A part of a list of children, from an offset in it, as much as goes into a message; behind its end an empty name.
fn directory_part(
    store: &mut Store,
    id: ConnectionId,
    transaction: u32,
    payload: &[u8],
) -> Result<Vec<u8>, Errno> {
    let (path, offset) = two(payload)?;
    let offset = std::str::from_utf8(offset).ok().and_then(|text| text.parse().ok()).ok_or(Errno::EINVAL)?;
    let children = store.within(id, transaction, |it| it.directory(path))?;
    let mut reply = format!("{}\0", children.generation).into_bytes();
    let mut position = 0usize;
    for name in &children.names {
        if position >= offset {
            // One byte is kept for the end.
            if reply.len().saturating_add(name.len()).saturating_add(2) > PAYLOAD_MAX as usize {
                return Ok(reply);
            }
            reply.extend([name.as_bytes(), &[0]].concat());
        }
        position = position.saturating_add(name.len()).saturating_add(1);
    }
    reply.push(0);
    Ok(reply)
}

fn truth(text: &[u8]) -> Option<bool> {
    match text {
        b"T" => Some(true),
        b"F" => Some(false),
        _ => None,
    }
}

/// A payload of one string with its NUL.
fn only(payload: &[u8]) -> Result<&[u8], Errno> {
    match first(payload)? {
        (string, []) => Ok(string),
        _ => Err(Errno::EINVAL),
    }
}

/// The first string of a payload, and what follows its NUL.
fn first(payload: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let mut halves = payload.splitn(2, |byte| *byte == 0);
    Ok((halves.next().ok_or(Errno::EINVAL)?, halves.next().ok_or(Errno::EINVAL)?))
}

/// A payload of two strings, each with its NUL; what may follow is reserved, and holds none.
fn two(payload: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let (one, rest) = first(payload)?;
    let (two, reserved) = first(rest)?;
    if reserved.contains(&0) { Err(Errno::EINVAL) } else { Ok((one, two)) }
}
