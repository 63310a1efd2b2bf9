//! Grants: pages of ours that another domain may use ([`Grant`]), and pages of others that we use ([`Borrowed`]).
//!
//! What a domain lends stands in its grant table, which it shares with the hypervisor: an entry says who may use which
//! frame, and two of its bits say whether that is in use. So only an exchange that finds both clear ends a grant, and
//! until then the page must not be used for anything else.

#[allow(unsafe_code, reason = "mappings of other domains' pages")]
mod borrow;
#[allow(unsafe_code, reason = "pages that others write")]
mod lend;
#[allow(unsafe_code, reason = "a table that the hypervisor writes too")]
pub mod table;

use core::fmt;

use pv_abi::Errno;
use pv_abi::grant_table::GrantStatus;

pub use borrow::Borrowed;
pub use lend::Grant;

/// Sets the table up. A hypervisor may have none.
pub fn init() {
    if let Err(error) = table::init() {
        println!("no grant table: {error}");
    }
}

/// Why there is no grant, or no mapping of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The hypervisor has no grant table for us.
    NoTable,
    /// Every entry is in use, and the table does not grow any more.
    TableFull,
    /// There is no free frame.
    NoMemory,
    /// Every window is in use.
    NoWindow,
    /// An entry has no room for the frame's number.
    FrameTooHigh,
    /// The hypercall was refused.
    Refused(Errno),
    /// The hypercall was made, and this came of it.
    Failed(GrantStatus),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable => f.write_str("the hypervisor offers none"),
            Self::TableFull => f.write_str("the grant table is full"),
            Self::NoMemory => f.write_str("out of memory"),
            Self::NoWindow => f.write_str("every window is in use"),
            Self::FrameTooHigh => f.write_str("the frame's number is too large for an entry"),
            Self::Refused(error) => write!(f, "refused, {error}"),
            Self::Failed(status) => write!(f, "refused, {status}"),
        }
    }
}

/// What became of an operation on one element.
pub fn outcome(made: Result<u64, Errno>, status: GrantStatus) -> Result<(), Error> {
    made.map_err(Error::Refused)?;
    match status {
        GrantStatus::OKAY => Ok(()),
        status => Err(Error::Failed(status)),
    }
}
