//! Back-ends: host threads that serve guests over shared-memory rings.
//!
//! A back-end knows a [`host::Host`] and nothing else, so it is tested on a [`fake_host::FakeHost`] with a scripted
//! front-end, and could move to a process of its own.
//!
//! Rules of this crate:
//! - a front-end is hostile: an index or a request is read once, copied, then checked;
//! - a back-end that finds its front-end lying disconnects it and says why ([`Disconnect`]); it never panics;
//! - a back-end touches no page but those it was given, and makes no reference into one;
//! - `unsafe` is in two places, which hand memory of pages to the host's kernel: `block/image/system.rs` and
//!   `block/engine/uring.rs`; `block/image/qcow2/storage.rs` implements a trait whose methods are declared so.
#![allow(rustdoc::private_intra_doc_links)] // the documentation is for those who read the code
// What a peer can reach must not panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects
    )
)]

pub mod block;
pub mod console;
pub mod driver;
pub mod failures;
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    reason = "it stands in tests only"
)]
pub mod fake_host;
pub mod pages;
pub mod patience;
pub mod port;
pub mod xenbus;
pub mod xenstore;

pub use backend_interface::{bell, host};

use host::HostError;
use pv_abi::ring::RingError;

/// Why a back-end stopped serving its front-end.
#[derive(Debug, thiserror::Error)]
pub enum Disconnect {
    /// The front-end broke the protocol.
    #[error("the front-end broke the protocol: {0}")]
    Protocol(String),
    /// The host took a page or a port away, or never gave it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Its domain was released from the store.
    #[error("its domain was released from the store")]
    Released,
    /// Nobody takes its output any more.
    #[error("nobody takes its output: {0}")]
    Output(std::io::Error),
}

impl From<RingError<HostError>> for Disconnect {
    fn from(error: RingError<HostError>) -> Self {
        match error {
            RingError::Overrun { produced, consumed } => Self::Protocol(format!(
                "the ring's indices do not fit: produced {produced}, consumed {consumed}"
            )),
            RingError::NoRoom => Self::Protocol("the ring has no room for a response".into()),
            RingError::TooSmall => Self::Protocol("the ring has no room for a request".into()),
            RingError::Memory(error) => Self::Host(error),
        }
    }
}
