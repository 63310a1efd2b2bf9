//! `sched_op` (`sched.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// An operation (`SCHEDOP_*`).
    pub struct SchedOp(u64) {
        /// Others may run first; the caller stays ready.
        YIELD = 0,
        /// Unmasks upcalls and sleeps until an event is pending.
        BLOCK = 1,
        /// Ends the caller's domain, for a reason.
        SHUTDOWN = 2,
        /// Sleeps until one of some ports is pending, or a time.
        POLL = 3,
        /// Ends another domain, for a reason.
        REMOTE_SHUTDOWN = 4,
        /// Sets the reason that a later shutdown gives.
        SHUTDOWN_CODE = 5,
        /// Sets, stops or restarts a timer that ends the domain when it runs out.
        WATCHDOG = 6,
        /// Pins the caller to a physical CPU, or ends that.
        PIN_OVERRIDE = 7,
    }
}

wire_enum! {
    /// Why a domain ends (`SHUTDOWN_*`).
    pub struct ShutdownReason(u32) {
        /// The domain has powered itself off.
        POWEROFF = 0,
        /// The domain asks to be started again.
        REBOOT = 1,
        /// The domain is ready to be saved.
        SUSPEND = 2,
        /// The domain has crashed, and says so.
        CRASH = 3,
        /// The domain's watchdog has run out.
        WATCHDOG = 4,
        /// The domain asks to be reset in place: its memory stays.
        SOFT_RESET = 5,
    }
}

/// `struct sched_shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shutdown {
    /// Why the domain ends, as its toolstack is told.
    pub reason: ShutdownReason,
}
layout!(Shutdown: 4);

/// `struct sched_poll`: the vCPU waits until one of these ports has an event pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Address of an array of ports (`u32`).
    pub ports: u64,
    /// Its length; at most [`Poll::MAX_PORTS`].
    pub nr_ports: u32,
    /// Padding; it has no meaning.
    pub padding: u32,
    /// System time in nanoseconds at which to give up; 0: never.
    pub timeout: u64,
}
layout!(Poll: 24, ports @ 0, nr_ports @ 8, timeout @ 16);

impl Poll {
    /// More ports than this are refused.
    pub const MAX_PORTS: u32 = 128;
}
