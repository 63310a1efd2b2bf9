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
        /// Closes a port.
        CLOSE = 3,
        /// Notifies the other end.
        SEND = 4,
        /// Says what a port is.
        STATUS = 5,
        /// Makes a port that another domain may connect to.
        ALLOC_UNBOUND = 6,
        /// Binds a port for interrupts between own vCPUs.
        BIND_IPI = 7,
        /// Chooses the vCPU that a port notifies.
        BIND_VCPU = 8,
        /// Clears a port's mask bit, and notifies if it is pending.
        UNMASK = 9,
        /// Closes all ports.
        RESET = 10,
        /// Sets up the FIFO ABI.
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
        /// The vCPU's timer.
        TIMER = 0,
        /// "Print your state."
        DEBUG = 1,
        /// Input on the emergency console; host domain only.
        CONSOLE = 2,
        /// Something happened to a domain; host domain only.
        DOM_EXC = 3,
        /// Profiling.
        XENOPROF = 7,
        /// Interdomain message.
        ARGO = 11,
        /// Performance counter.
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
    /// In: the other domain.
    pub remote_dom: DomId,
    /// Padding.
    pub padding: u16,
    /// In: its port.
    pub remote_port: EventPort,
    /// Out: the new port.
    pub local_port: EventPort,
}
layout!(BindInterdomain: 12, remote_port @ 4, local_port @ 8);

/// `struct evtchn_bind_virq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVirq {
    /// In: the interrupt.
    pub virq: Virq,
    /// In: the vCPU that it notifies.
    pub vcpu: VcpuId,
    /// Out: the new port.
    pub port: EventPort,
}
layout!(BindVirq: 12, vcpu @ 4, port @ 8);

/// `struct evtchn_bind_ipi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIpi {
    /// In: the vCPU that it notifies.
    pub vcpu: VcpuId,
    /// Out: the new port.
    pub port: EventPort,
}
layout!(BindIpi: 8, port @ 4);

/// `struct evtchn_close`, `struct evtchn_send`, `struct evtchn_unmask`: one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortArgument {
    /// In: the port.
    pub port: EventPort,
}
layout!(PortArgument: 4);

/// `struct evtchn_bind_vcpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVcpu {
    /// In: the port.
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
    /// Out: the new port.
    pub port: EventPort,
}
layout!(AllocUnbound: 8, remote_dom @ 2, port @ 4);

wire_enum! {
    /// What a port is (`EVTCHNSTAT_*`).
    pub struct PortStatus(u32) {
        /// Not in use.
        CLOSED = 0,
        /// Waits for another domain.
        UNBOUND = 1,
        /// Connected to another domain.
        INTERDOMAIN = 2,
        /// A physical interrupt.
        PIRQ = 3,
        /// A virtual interrupt.
        VIRQ = 4,
        /// Between own vCPUs.
        IPI = 5,
    }
}

/// `struct evtchn_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// In: the domain.
    pub dom: DomId,
    /// Padding.
    pub padding: u16,
    /// In: its port.
    pub port: EventPort,
    /// Out: what it is.
    pub status: PortStatus,
    /// Out: the vCPU that it notifies.
    pub vcpu: VcpuId,
    /// `u.virq`: out, by `status`. Unbound and interdomain: the other domain (low 16 bits); virq: the interrupt.
    pub detail0: u32,
    /// `u.interdomain.port`: out, interdomain: the other port.
    pub detail1: u32,
}
layout!(Status: 24, port @ 4, status @ 8, vcpu @ 12, detail0 @ 16, detail1 @ 20);
