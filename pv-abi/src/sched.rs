//! `sched_op` (`sched.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// An operation (`SCHEDOP_*`).
    pub struct SchedOp(u64) {
        /// Lets others run.
        YIELD = 0,
        /// Unmasks upcalls and sleeps until an event is pending.
        BLOCK = 1,
        /// Ends the domain.
        SHUTDOWN = 2,
        /// Sleeps until one of some ports is pending, or a time.
        POLL = 3,
        /// Ends another domain.
        REMOTE_SHUTDOWN = 4,
        /// Sets the reason that a later shutdown gives.
        SHUTDOWN_CODE = 5,
        /// Watchdog timer.
        WATCHDOG = 6,
        /// Pins the vCPU.
        PIN_OVERRIDE = 7,
    }
}

wire_enum! {
    /// Why a domain ends (`SHUTDOWN_*`).
    pub struct ShutdownReason(u32) {
        /// It is done.
        POWEROFF = 0,
        /// Start it again.
        REBOOT = 1,
        /// Save it.
        SUSPEND = 2,
        /// It crashed.
        CRASH = 3,
        /// Its watchdog ran out.
        WATCHDOG = 4,
        /// Reset it in place.
        SOFT_RESET = 5,
    }
}

/// `struct sched_shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shutdown {
    /// Why.
    pub reason: ShutdownReason,
}
layout!(Shutdown: 4);

/// `struct sched_poll`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Address of an array of ports (`u32`).
    pub ports: u64,
    /// Its length; at most [`Poll::MAX_PORTS`].
    pub nr_ports: u32,
    /// Padding.
    pub padding: u32,
    /// System time in nanoseconds at which to give up; 0: never.
    pub timeout: u64,
}
layout!(Poll: 24, ports @ 0, nr_ports @ 8, timeout @ 16);

impl Poll {
    /// More ports than this are refused.
    pub const MAX_PORTS: u32 = 128;
}
