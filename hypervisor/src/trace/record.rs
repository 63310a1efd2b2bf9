//! What can be traced.

use crate::machine::Exit;
use crate::vcpu::{Mode, Rest, VcpuKey};
use pv_abi::DomId;

/// From when to when, in nanoseconds of system time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub start: u64,
    /// Its end, not before that.
    pub end: u64,
}

/// What became of a hypercall, for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// It returned this.
    Returned(u64),
    /// It did something else.
    Became(&'static str),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A domain was made. To be recorded before everything else about it.
    Domain {
        /// Its number.
        id: DomId,
        /// Its name.
        name: String,
    },
    /// A vCPU had a pcpu.
    Turn {
        /// The pcpu.
        pcpu: usize,
        /// The vCPU.
        vcpu: VcpuKey,
        /// When.
        span: Span,
        /// Since when the vCPU had waited, and for what; none at its first turn.
        rest: Option<(u64, Rest)>,
    },
    /// The guest ran.
    Guest {
        /// The pcpu.
        pcpu: usize,
        /// In which mode it was entered.
        mode: Mode,
        /// When.
        span: Span,
    },
    /// An exit from the guest was dealt with.
    Exit {
        /// The pcpu.
        pcpu: usize,
        /// The vCPU.
        vcpu: VcpuKey,
        /// The exit.
        exit: Exit,
        /// The mode that it came from.
        mode: Mode,
        /// Where the guest was.
        rip: u64,
        /// From the exit on.
        span: Span,
    },
    /// A hypercall was made, on its own or as part of a multicall, or gone on with.
    Hypercall {
        /// Who made it.
        vcpu: VcpuKey,
        /// Its name; none for a number that means nothing.
        name: Option<&'static str>,
        /// Its number.
        number: u64,
        /// Its arguments.
        arguments: [u64; 6],
        /// What became of it.
        called: Called,
        /// It was interrupted before.
        continued: bool,
        /// When.
        span: Span,
    },
    /// Events were delivered.
    Upcall {
        /// To whom.
        vcpu: VcpuKey,
        /// When.
        span: Span,
    },
}
