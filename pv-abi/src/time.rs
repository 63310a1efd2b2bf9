//! Time as a guest reads it without a hypercall (`struct vcpu_time_info`, `xen.h`), and its publication protocol.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A vCPU's clock (`struct vcpu_time_info`): nanoseconds since the machine's start as a linear function of the TSC.
///
/// The writer makes `version` odd, writes the rest, and makes it even again; a reader retries while it is odd or
/// has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while an update is in progress.
    pub version: u32,
    /// Padding; it has no meaning.
    pub padding0: u32,
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// System time at the last update, in nanoseconds.
    pub system_time: u64,
    /// Nanoseconds per (shifted) TSC tick, times 2^32.
    pub tsc_to_system_mul: u32,
    /// How far to shift a TSC difference left first; negative: right.
    pub tsc_shift: i8,
    /// What is promised of the clock: bits of [`TimeFlags`].
    pub flags: u8,
    /// Padding; it has no meaning.
    pub padding1: [u8; 2],
}
layout!(VcpuTimeInfo: 32,
    version @ 0, tsc_timestamp @ 8, system_time @ 16, tsc_to_system_mul @ 24, tsc_shift @ 28, flags @ 29);

bitflags! {
    /// Flags of a [`VcpuTimeInfo`] (`XEN_PVCLOCK_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct TimeFlags: u8 {
        /// The clocks of all vCPUs agree (`XEN_PVCLOCK_TSC_STABLE_BIT`).
        const TSC_STABLE = 1 << 0;
        /// The guest was stopped.
        const GUEST_STOPPED = 1 << 1;
    }
}

impl VcpuTimeInfo {
    /// System time in nanoseconds when the TSC reads `tsc`. Wraps like the hardware where the fields are absurd;
    /// a TSC before the last update counts as the update itself.
    pub const fn system_time_at(&self, tsc: u64) -> u64 {
        self.system_time.wrapping_add(scale(
            tsc.saturating_sub(self.tsc_timestamp),
            self.tsc_to_system_mul,
            self.tsc_shift,
        ))
    }
}

/// `(ticks << shift) * mul >> 32`, in 128 bits; a shift outside ±63 counts as ±63.
pub const fn scale(ticks: u64, mul: u32, shift: i8) -> u64 {
    let distance = if shift.unsigned_abs() > 63 { 63 } else { shift.unsigned_abs() as u32 };
    let shifted = if shift < 0 { ticks >> distance } else { ticks << distance };
    ((shifted as u128).wrapping_mul(mul as u128) >> 32) as u64 // 64 bits times 32 fit in 128
}

/// The multiplier and shift for a TSC of `tsc_khz` kHz (not 0).
#[expect(
    clippy::arithmetic_side_effects,
    reason = "no guest's number; the ratio is below 2^20 and above 2^-45"
)]
pub const fn multiplier_for(tsc_khz: u64) -> (u32, i8) {
    // ns = ticks * 10^6 / kHz. Bring the ratio into [1/2, 1), where 32 bits keep it most precisely.
    let (mut numerator, mut denominator, mut shift) = (1_000_000u128, tsc_khz as u128, 0i8);
    while numerator >= denominator {
        denominator <<= 1;
        shift += 1;
    }
    while numerator * 2 < denominator {
        numerator <<= 1;
        shift -= 1;
    }
    (((numerator << 32) / denominator) as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_reproduce_a_second() {
        for khz in [1_000, 999_999, 1_000_000, 1_000_001, 2_596_120, 5_000_000] {
            let (mul, shift) = multiplier_for(khz);
            let second = scale(khz * 1_000, mul, shift);
            assert!(second.abs_diff(1_000_000_000) <= 1, "{khz} kHz: {second}");
        }
    }

    #[test]
    fn absurd_shifts_do_not_overflow() {
        for shift in [i8::MIN, -64, 64, i8::MAX] {
            let info = VcpuTimeInfo { tsc_shift: shift, tsc_to_system_mul: u32::MAX, ..Default::default() };
            let _ = info.system_time_at(u64::MAX);
        }
    }
}
