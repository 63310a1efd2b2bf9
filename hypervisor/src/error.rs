//! Errors say whose fault it is: the guest's (it is told, or its domain crashed) or the host's.

use crate::machine::MachineError;
use pv_abi::Errno;
use std::fmt;

/// A guest asked for something that it must not have, or cannot: it gets the errno, and nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error number that the guest gets: a hypercall returns it negated.
    pub errno: Errno,
    /// Why, in a few plain words: for traces and for whoever debugs a guest.
    pub why: &'static str,
}

impl Refusal {
    /// A refusal with its reason.
    pub const fn new(errno: Errno, why: &'static str) -> Self {
        Self { errno, why }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.errno)
    }
}

/// Why an operation on behalf of a guest did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The guest's fault: it gets an errno and goes on.
    #[error("{0}")]
    Refused(Refusal),
    /// The guest's fault, and there is no way to tell it: its domain crashes.
    #[error("domain crashed: {0}")]
    Crash(String),
    /// The host's fault: the domain cannot go on.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What a failure of the host or a defect of the hypervisor has left behind: the domain cannot go on.
    #[error("{0}")]
    Host(String),
}

impl Failure {
    /// Whether the guest is not to blame.
    pub fn is_hosts(&self) -> bool {
        matches!(self, Self::Machine(_) | Self::Host(_))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
