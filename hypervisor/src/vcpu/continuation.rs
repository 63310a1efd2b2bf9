//! Hypercalls that were interrupted.

use pv_abi::grant_table::GrantHandle;
use pv_abi::hypercall::MulticallEntry;

/// How far a hypercall has come that was interrupted. The hypervisor keeps it, and goes on with it before the
/// guest runs again: nothing of it is the guest's to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries of a multicall that are done.
    pub calls: u64,
    /// The entry that it is at, as it was read.
    pub call: Option<MulticallEntry>,
    /// Elements of a batch that are done.
    pub elements: u64,
    /// A mapping that is to be undone, since the guest cannot be told of it.
    pub untold: Option<GrantHandle>,
}

/// A hypercall that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The hypercall's number.
    pub number: u64,
    /// The hypercall's arguments, as they were when it was made.
    pub arguments: [u64; 6],
    /// How far the hypercall has come.
    pub progress: Progress,
}
