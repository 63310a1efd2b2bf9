//! `event_channel_op` (`event_channel.h`), the 2-level ABI.

use crate::ids::{DomId, EventPort, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Ports a domain has (`EVTCHN_2L_NR_CHANNELS`); port 0 is never valid.
pub const PORTS: u32 = 4096;

wire_enum! {
    /// An operation (`EVTCHNOP_*`).
    pub struct EventChannelOp(u64) {
        /// Connects to a port that another domain left unbound.
        BIND_INTERDOMAIN = 0,
        /// Binds a virtual interrupt.
        BIND_VIRQ = 1,
        /// Binds a physical interrupt.
        BIND_PIRQ = 2,
        /// Closes a port of the caller. The other end, if there is one, is unbound then.
        CLOSE = 3,
        /// Notifies the other end.
        SEND = 4,
        /// Tells what a port is, and what it is connected to.
        STATUS = 5,
        /// Makes a port that another domain may connect to.
        ALLOC_UNBOUND = 6,
        /// Binds a port for interrupts between own vCPUs.
        BIND_IPI = 7,
        /// Chooses the vCPU that a port notifies.
        BIND_VCPU = 8,
        /// Clears a port's mask bit, and notifies if it is pending.
        UNMASK = 9,
        /// Closes all ports of a domain.
        RESET = 10,
        /// Sets up a vCPU's control block of the FIFO ABI.
        INIT_CONTROL = 11,
        /// Adds a page to the FIFO ABI's array.
        EXPAND_ARRAY = 12,
        /// Sets a port's priority in the FIFO ABI.
        SET_PRIORITY = 13,
    }
}

wire_enum! {
    /// A virtual interrupt (`VIRQ_*`, `xen.h`).
    pub struct Virq(u32) {
        /// The vCPU's timer has run out.
        TIMER = 0,
        /// Somebody wants the domain to print its state.
        DEBUG = 1,
        /// Input on the emergency console; host domain only.
        CONSOLE = 2,
        /// Something happened to a domain; host domain only.
        DOM_EXC = 3,
        /// Samples of the profiler are there.
        XENOPROF = 7,
        /// A message of another domain has come (Argo).
        ARGO = 11,
        /// A performance counter has overflowed.
        XENPMU = 13,
    }
}

impl Virq {
    /// Virtual interrupts there are (`NR_VIRQS`).
    pub const COUNT: u32 = 24;

    /// Whether it is one of the domain rather than one that each vCPU has. Of the latter there are the timer, debug,
    /// and two of profilers.
    pub const fn is_global(self) -> bool {
        !matches!(self, Self::TIMER | Self::DEBUG | Self::XENOPROF | Self::XENPMU)
    }
}

/// `struct evtchn_bind_interdomain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindInterdomain {
    /// In: the domain of the other end.
    pub remote_dom: DomId,
    /// Padding; it has no meaning.
    pub padding: u16,
    /// In: the port of the other end, in its domain.
    pub remote_port: EventPort,
    /// Out: the port of the caller's own end.
    pub local_port: EventPort,
}
layout!(BindInterdomain: 12, remote_port @ 4, local_port @ 8);

/// `struct evtchn_bind_virq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVirq {
    /// In: the virtual interrupt that is to be an event.
    pub virq: Virq,
    /// In: the vCPU that it notifies.
    pub vcpu: VcpuId,
    /// Out: the port on which the event comes.
    pub port: EventPort,
}
layout!(BindVirq: 12, vcpu @ 4, port @ 8);

/// `struct evtchn_bind_ipi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIpi {
    /// In: the vCPU that it notifies.
    pub vcpu: VcpuId,
    /// Out: the port on which the event comes.
    pub port: EventPort,
}
layout!(BindIpi: 8, port @ 4);

/// `struct evtchn_close`, `struct evtchn_send`, `struct evtchn_unmask`: one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortArgument {
    /// In: the port of the caller that is to be closed.
    pub port: EventPort,
}
layout!(PortArgument: 4);

/// `struct evtchn_bind_vcpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVcpu {
    /// In: the caller's port whose other end gets the event.
    pub port: EventPort,
    /// In: the vCPU that it shall notify.
    pub vcpu: VcpuId,
}
layout!(BindVcpu: 8, vcpu @ 4);

/// `struct evtchn_alloc_unbound`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllocUnbound {
    /// In: the domain that the port is made in.
    pub dom: DomId,
    /// In: the domain that may connect to it.
    pub remote_dom: DomId,
    /// Out: the port that the other domain can bind.
    pub port: EventPort,
}
layout!(AllocUnbound: 8, remote_dom @ 2, port @ 4);

wire_enum! {
    /// What a port is (`EVTCHNSTAT_*`).
    pub struct PortStatus(u32) {
        /// The port is not in use.
        CLOSED = 0,
        /// Waits for another domain.
        UNBOUND = 1,
        /// Connected to another domain.
        INTERDOMAIN = 2,
        /// An interrupt of a physical device arrives on it.
        PIRQ = 3,
        /// A virtual interrupt arrives on it.
        VIRQ = 4,
        /// A vCPU of the domain sends events to another one by it.
        IPI = 5,
    }
}

/// `struct evtchn_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// In: the domain whose port it is, or `DOMID_SELF`.
    pub dom: DomId,
    /// Padding; it has no meaning.
    pub padding: u16,
    /// In: the port that is asked about.
    pub port: EventPort,
    /// Out: what the port is used for.
    pub status: PortStatus,
    /// Out: the vCPU that it notifies.
    pub vcpu: VcpuId,
    /// `u.virq`: out, by `status`. Unbound and interdomain: the other domain (low 16 bits); virq: the interrupt.
    pub detail0: u32,
    /// `u.interdomain.port`: out, interdomain: the other port.
    pub detail1: u32,
}
layout!(Status: 24, port @ 4, status @ 8, vcpu @ 12, detail0 @ 16, detail1 @ 20);
