//! The store's protocol (`io/xs_wire.h`): messages of a header and a payload, and a page with a byte ring each way.
//!
//! The guest owns `req_prod` and `rsp_cons`, the server `req_cons` and `rsp_prod`. Indices run freely and are masked at
//! use; [`super::byte_ring`] is the whole arithmetic, with [`RING_SIZE`].

use crate::errno::Errno;
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// What a message is (`XS_*`). A reply has its request's type, or [`Self::ERROR`].
    pub struct MessageType(u32) {
        /// Commands to the server itself.
        CONTROL = 0,
        /// Names of a node's children.
        DIRECTORY = 1,
        /// Asks for a node's value.
        READ = 2,
        /// Asks for a node's permissions.
        GET_PERMS = 3,
        /// Wants to be told of changes.
        WATCH = 4,
        /// Does not want that any more.
        UNWATCH = 5,
        /// Starts a transaction, and tells its number.
        TRANSACTION_START = 6,
        /// Ends a transaction: its changes are made all together, or dropped.
        TRANSACTION_END = 7,
        /// A domain is to be served.
        INTRODUCE = 8,
        /// It is not to be served any more.
        RELEASE = 9,
        /// Where relative paths of a domain start.
        GET_DOMAIN_PATH = 10,
        /// Sets a node's value. The node is made where it is not there.
        WRITE = 11,
        /// Makes a node, where there is none.
        MKDIR = 12,
        /// Removes a node, and all below it.
        RM = 13,
        /// Sets a node's permissions.
        SET_PERMS = 14,
        /// From the server: something changed.
        WATCH_EVENT = 15,
        /// A reply: the name of an error.
        ERROR = 16,
        /// Whether a domain is served.
        IS_DOMAIN_INTRODUCED = 17,
        /// A domain that was shut down goes on: its shutdown is forgotten.
        RESUME = 18,
        /// A domain acts for another.
        SET_TARGET = 19,
        /// Ends all watches and transactions of the caller.
        RESET_WATCHES = 21,
        /// Names of some of a node's children.
        DIRECTORY_PART = 22,
        /// A number that no type will ever have.
        INVALID = 0xffff,
    }
}

/// What a message starts with (`struct xsd_sockmsg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// `type`: what is asked; a reply has the type of its request, or `XS_ERROR`.
    pub message_type: MessageType,
    /// The client's number for a request; its reply bears the same.
    pub req_id: u32,
    /// The transaction that it belongs to; 0: none.
    pub tx_id: u32,
    /// Bytes of the payload that follows.
    pub len: u32,
}
layout!(Header: 16, message_type @ 0, req_id @ 4, tx_id @ 8, len @ 12);

wire_enum! {
    /// Which string is which in a watch event (`XS_WATCH_*`, `enum xs_watch_type`).
    pub struct WatchField(u32) {
        /// The path of the node that has changed.
        PATH = 0,
        /// What the watch was registered with.
        TOKEN = 1,
    }
}

/// The longest payload (`XENSTORE_PAYLOAD_MAX`). A client that sends a longer one is disconnected.
pub const PAYLOAD_MAX: u32 = 4096;
/// The longest absolute path (`XENSTORE_ABS_PATH_MAX`).
pub const ABS_PATH_MAX: u32 = 3072;
/// The longest relative path (`XENSTORE_REL_PATH_MAX`).
pub const REL_PATH_MAX: u32 = 2048;

/// The errors that a reply can name (`xsd_errors`), as numbers; on the wire they are names ([`Errno::name`]).
pub const ERRORS: [u16; 16] = [
    Errno::EINVAL.number(),
    Errno::EACCES.number(),
    Errno::EEXIST.number(),
    Errno::EISDIR.number(),
    Errno::ENOENT.number(),
    Errno::ENOMEM.number(),
    Errno::ENOSPC.number(),
    Errno::EIO.number(),
    Errno::ENOTEMPTY.number(),
    Errno::ENOSYS.number(),
    Errno::EROFS.number(),
    Errno::EBUSY.number(),
    Errno::EAGAIN.number(),
    Errno::EISCONN.number(),
    Errno::E2BIG.number(),
    Errno::EPERM.number(),
];

/// Reads the payload of an [`MessageType::ERROR`], with or without the NUL that ends it.
pub fn error_named(payload: &[u8]) -> Option<Errno> {
    let name = payload.strip_suffix(&[0]).unwrap_or(payload);
    Errno::from_name(name).filter(|error| ERRORS.contains(&error.number()))
}

/// Bytes of the ring in either direction (`XENSTORE_RING_SIZE`).
pub const RING_SIZE: u32 = 1024;

/// The page (`struct xenstore_domain_interface`). Both sides write it at once: use it as offsets, never as a reference.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainInterface {
    /// Bytes of the guest's requests.
    pub req: [u8; RING_SIZE as usize],
    /// Replies and watch events.
    pub rsp: [u8; RING_SIZE as usize],
    /// The server has consumed this many bytes of `req`.
    pub req_cons: u32,
    /// The guest has produced this many.
    pub req_prod: u32,
    /// The guest has consumed this many bytes of `rsp`.
    pub rsp_cons: u32,
    /// The server has produced this many.
    pub rsp_prod: u32,
    /// What the server can do: [`ServerFeatures`].
    pub server_features: u32,
    /// [`Connection`]: the guest asks for a new connection, the server answers.
    pub connection: Connection,
    /// Why the server serves no more.
    pub error: RingError,
}
layout!(DomainInterface: 2076, req @ 0, rsp @ 1024, req_cons @ 2048, req_prod @ 2052, rsp_cons @ 2056, rsp_prod @ 2060,
        server_features @ 2064, connection @ 2068, error @ 2072);

bitflags! {
    /// What a server can do (`XENSTORE_SERVER_FEATURE_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ServerFeatures: u32 {
        /// The guest may ask for its ring to be connected anew.
        const RECONNECTION = 1;
        /// Say why it serves no more.
        const ERROR = 2;
    }
}

wire_enum! {
    /// The state of a ring (`XENSTORE_*`).
    pub struct Connection(u32) {
        /// The ring is in use: at the start, and again when the server has emptied it.
        CONNECTED = 0,
        /// The guest wants it empty, without watches and transactions.
        RECONNECT = 1,
    }
}

wire_enum! {
    /// Why a server serves a ring no more (`XENSTORE_ERROR_*`).
    pub struct RingError(u32) {
        /// The server serves the ring.
        NONE = 0,
        /// The event channel does not work.
        COMM = 1,
        /// The guest's indices do not fit.
        RINGIDX = 2,
        /// The guest broke the protocol.
        PROTO = 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_go_by_name() {
        for number in ERRORS {
            let named =
                ["EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO", "ENOTEMPTY"];
            let named =
                named.iter().chain(&["ENOSYS", "EROFS", "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM"]);
            let of_that_number = named
                .filter(|name| error_named(name.as_bytes()).is_some_and(|error| error.number() == number));
            assert_eq!(of_that_number.count(), 1);
        }
        assert_eq!(error_named(b"EAGAIN\0"), Some(Errno::EAGAIN));
        for other in [&b""[..], b"\0", b"EAGAIN\0\0", b"eagain", b"EFAULT", b"OK"] {
            assert_eq!(error_named(other), None);
        }
    }
}
