//! Messages of the store's protocol, to bytes and from bytes. Pure.

use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::Errno;
use pv_abi::io::xenstore::{Header, MessageType, PAYLOAD_MAX, error_named};
use zerocopy::{FromBytes, IntoBytes};

const HEADER: usize = size_of::<Header>();

/// A message of the store's with its whole payload: a reply or a watch event.
#[derive(Debug)]
pub struct Message {
    pub header: Header,
    pub payload: Vec<u8>,
}

/// A server announced more than a message holds.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// The bytes of a request whose payload is `parts`, one after the other.
pub fn request(message_type: MessageType, req_id: u32, parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
    let payload = parts.concat();
    let len = u32::try_from(payload.len()).ok().filter(|len| *len <= PAYLOAD_MAX).ok_or(Errno::E2BIG)?;
    let header = Header { message_type, req_id, tx_id: 0, len };
    Ok([header.as_bytes(), &payload].concat())
}

/// Puts messages together from whatever pieces they come in.
#[derive(Default)]
pub struct Assembler(Vec<u8>);

impl Assembler {
    /// Takes the bytes that come next from the ring, wherever they are cut off.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next message, once all of it is there.
    pub fn next(&mut self) -> Result<Option<Message>, TooLong> {
        let Ok((header, rest)) = Header::read_from_prefix(&self.0) else { return Ok(None) };
        if header.len > PAYLOAD_MAX {
            return Err(TooLong);
        }
        let length = header.len as usize;
        if rest.len() < length {
            return Ok(None);
        }
        let payload = rest[..length].to_vec();
        self.0.drain(..HEADER + length);
        Ok(Some(Message { header, payload }))
    }
}

impl Message {
    /// The payload of a reply; an error where the reply is one (`XS_ERROR`), by its name.
    pub fn answer(self) -> Result<Vec<u8>, Errno> {
        match self.header.message_type {
            // A server that names an error that there is not has failed too.
            MessageType::ERROR => Err(error_named(&self.payload).unwrap_or(Errno::EIO)),
            _ => Ok(self.payload),
        }
    }

    /// The path and the token of a watch event.
    pub fn event(&self) -> Option<(String, u32)> {
        let mut fields = strings(&self.payload).into_iter();
        let (path, token) = (fields.next()?, fields.next()?);
        Some((path, token.parse().ok()?))
    }
}

/// Strings of which each has a NUL behind it.
pub fn strings(payload: &[u8]) -> Vec<String> {
    let whole = payload.strip_suffix(&[0]).unwrap_or(payload);
    if payload.is_empty() {
        return Vec::new();
    }
    whole.split(|byte| *byte == 0).map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(message_type: MessageType, req_id: u32, payload: &[u8]) -> Vec<u8> {
        request(message_type, req_id, &[payload]).unwrap()
    }

    #[test]
    fn a_message_comes_whole_however_it_is_cut() {
        let bytes = [message(MessageType::READ, 7, b"value"), message(MessageType::RM, 8, b"")].concat();
        for cut in 0..bytes.len() {
            let mut assembler = Assembler::default();
            let mut seen = Vec::new();
            for piece in [&bytes[..cut], &bytes[cut..]] {
                assembler.push(piece);
                while let Some(message) = assembler.next().unwrap() {
                    seen.push((message.header.req_id, message.payload));
                }
            }
            assert_eq!(seen, [(7, b"value".to_vec()), (8, Vec::new())], "cut at {cut}");
        }
    }

    #[test]
    fn a_server_that_announces_too_much_is_not_waited_for() {
        let len = PAYLOAD_MAX + 1;
        let header = Header { message_type: MessageType::READ, req_id: 1, tx_id: 0, len };
        let mut assembler = Assembler::default();
        assembler.push(header.as_bytes());
        assert_eq!(assembler.next().unwrap_err(), TooLong);
        let longest = [0; PAYLOAD_MAX as usize];
        assert!(request(MessageType::WRITE, 1, &[&longest]).is_ok());
        assert_eq!(request(MessageType::WRITE, 1, &[&longest, b"x"]), Err(Errno::E2BIG));
    }

    fn received(bytes: &[u8]) -> Message {
        let mut assembler = Assembler::default();
        assembler.push(bytes);
        assembler.next().unwrap().unwrap()
    }

    #[test]
    fn errors_go_by_name() {
        assert_eq!(received(&message(MessageType::ERROR, 1, b"EACCES\0")).answer(), Err(Errno::EACCES));
        assert_eq!(received(&message(MessageType::ERROR, 1, b"\xff")).answer(), Err(Errno::EIO));
        assert_eq!(received(&message(MessageType::READ, 1, b"EACCES")).answer(), Ok(b"EACCES".to_vec()));
    }

    #[test]
    fn an_event_has_a_path_and_our_token() {
        let event = |payload: &[u8]| received(&message(MessageType::WATCH_EVENT, 0, payload)).event();
        assert_eq!(event(b"device/vbd\x003\0"), Some(("device/vbd".into(), 3)));
        for strange in [&b""[..], b"\0", b"path\0", b"path\0token\0", b"path", b"path\0-1\0"] {
            assert_eq!(event(strange), None);
        }
    }

    #[test]
    fn a_directory_is_a_list_of_names() {
        assert_eq!(strings(b""), Vec::<String>::new());
        assert_eq!(strings(b"a\0bc\0"), ["a", "bc"]);
    }
}
