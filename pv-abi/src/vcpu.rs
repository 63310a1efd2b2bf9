//! `vcpu_op` (`vcpu.h`).

use crate::address::Mfn;
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// An operation (`VCPUOP_*`).
    pub struct VcpuOp(u64) {
        /// Gives a vCPU its first context.
        INITIALISE = 0,
        /// Starts a vCPU that was initialised, or one that was stopped.
        UP = 1,
        /// Stops a vCPU until it is started again.
        DOWN = 2,
        /// Asks whether a vCPU was started, and not stopped since.
        IS_UP = 3,
        /// Tells where a vCPU's time has gone.
        GET_RUNSTATE_INFO = 4,
        /// Where to publish that.
        REGISTER_RUNSTATE_MEMORY_AREA = 5,
        /// Sets the timer that fires again and again.
        SET_PERIODIC_TIMER = 6,
        /// Stops the timer that fires again and again.
        STOP_PERIODIC_TIMER = 7,
        /// A timer that fires once.
        SET_SINGLESHOT_TIMER = 8,
        /// Stops the timer that fires once.
        STOP_SINGLESHOT_TIMER = 9,
        /// Moves the vCPU's `vcpu_info`.
        REGISTER_VCPU_INFO = 10,
        /// Sends a vCPU a non-maskable interrupt.
        SEND_NMI = 11,
        /// Tells the physical CPU that a vCPU is bound to.
        GET_PHYSID = 12,
        /// Moves the vCPU's time info.
        REGISTER_VCPU_TIME_MEMORY_AREA = 13,
    }
}

/// `struct vcpu_set_periodic_timer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPeriodicTimer {
    /// Nanoseconds between two firings.
    pub period_ns: u64,
}
layout!(SetPeriodicTimer: 8);

/// `struct vcpu_set_singleshot_timer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSingleshotTimer {
    /// System time in nanoseconds.
    pub timeout_abs_ns: u64,
    /// What is wanted of it: bits of [`SingleshotFlags`].
    pub flags: u32,
    /// Padding; it has no meaning.
    pub padding: u32,
}
layout!(SetSingleshotTimer: 16, flags @ 8);

bitflags! {
    /// Flags of [`SetSingleshotTimer`] (`VCPU_SSHOTTMR_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SingleshotFlags: u32 {
        /// A time in the past is an error (−ETIME in Xen's headers, 62) rather than fires at once.
        const FUTURE = 1 << 0;
    }
}

/// `struct vcpu_register_vcpu_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterVcpuInfo {
    /// The frame that `vcpu_info` shall lie in.
    pub mfn: Mfn,
    /// The structure's first byte in that frame, below 4096.
    pub offset: u32,
    /// `rsvd`: padding; it is ignored, whatever it holds.
    pub reserved: u32,
}
layout!(RegisterVcpuInfo: 16, offset @ 8);

wire_enum! {
    /// What a vCPU does (`RUNSTATE_*`).
    pub struct Runstate(u32) {
        /// The vCPU is on a physical CPU.
        RUNNING = 0,
        /// It could run, and has no physical CPU.
        RUNNABLE = 1,
        /// It waits for an event.
        BLOCKED = 2,
        /// It was not started, or was stopped.
        OFFLINE = 3,
    }
}

/// `struct vcpu_runstate_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuRunstateInfo {
    /// What the vCPU does now.
    pub state: Runstate,
    /// Padding; it has no meaning.
    pub padding: u32,
    /// Since when: system time in nanoseconds, with [`Self::UPDATE`] while the rest is being written.
    pub state_entry_time: u64,
    /// How long it has done each before that: nanoseconds, by [`Runstate`].
    pub time: [u64; 4],
}
layout!(VcpuRunstateInfo: 48, state_entry_time @ 8, time @ 16);

impl VcpuRunstateInfo {
    /// `XEN_RUNSTATE_UPDATE`: set in the entry time while an update is being written, where the guest asked for that.
    pub const UPDATE: u64 = 1 << 63;
}

/// `struct vcpu_register_runstate_memory_area`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterRunstateMemoryArea {
    /// `addr.p`: the address of a [`VcpuRunstateInfo`] in the kernel's memory, or 0.
    pub address: u64,
}
layout!(RegisterRunstateMemoryArea: 8);
