//! What can be traced.

use crate::machine::Exit;
use crate::vcpu::{Mode, Rest, VcpuKey};
use pv_abi::DomId;

/// From when to when, in nanoseconds of system time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began, in nanoseconds of system time.
    pub start: u64,
    /// Its end, not before that.
    pub end: u64,
}

/// What became of a hypercall, for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// The call returned this value.
    Returned(u64),
    /// It did something else.
    Became(&'static str),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A domain was made. To be recorded before everything else about it.
    Domain {
        /// The number of the new domain.
        id: DomId,
        /// What the domain is called.
        name: String,
    },
    /// A vCPU had a pcpu for one turn.
    Turn {
        /// The number of the pcpu that the vCPU was on.
        pcpu: usize,
        /// The vCPU that had the pcpu.
        vcpu: VcpuKey,
        /// When the vCPU got the pcpu, and when it left.
        span: Span,
        /// Since when the vCPU had waited, and for what; none at its first turn.
        rest: Option<(u64, Rest)>,
    },
    /// Code of the guest ran.
    Guest {
        /// The number of the pcpu that ran the guest.
        pcpu: usize,
        /// In which mode it was entered.
        mode: Mode,
        /// From the entry to the exit.
        span: Span,
    },
    /// An exit from the guest was dealt with.
    Exit {
        /// The number of the pcpu that dealt with the exit.
        pcpu: usize,
        /// The vCPU that left the machine.
        vcpu: VcpuKey,
        /// Why the vCPU left the machine.
        exit: Exit,
        /// The mode that it came from.
        mode: Mode,
        /// The address that the guest was at.
        rip: u64,
        /// From the exit until it was acted on.
        span: Span,
    },
    /// A hypercall was made, on its own or as part of a multicall, or gone on with.
    Hypercall {
        /// The vCPU that made the call.
        vcpu: VcpuKey,
        /// Its name; none for a number that means nothing.
        name: Option<&'static str>,
        /// The hypercall's number.
        number: u64,
        /// The hypercall's arguments, as they were in the registers.
        arguments: [u64; 6],
        /// How this run of the call ended.
        called: Called,
        /// It was interrupted before.
        continued: bool,
        /// From the call of the handler until its return.
        span: Span,
    },
    /// Events were delivered.
    Upcall {
        /// The vCPU that got the upcall.
        vcpu: VcpuKey,
        /// When the upcall was delivered.
        span: Span,
    },
}
