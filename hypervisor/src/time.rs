//! Time as guests read it without a hypercall: each vCPU's clock in its `vcpu_info`, the wall clock in the shared
//! page.
//!
//! Invariants, with the tests that guard them (below):
//! - a reader sees either all of an update or none: `version` is odd meanwhile (`versions_are_even_at_rest`);
//! - a vCPU's clock never runs backwards, also where the host's clock and the TSC disagree: what the guest may
//!   have seen is a floor, and a clock that is ahead runs slower, by at most one in [`SLEW`], so that the host's
//!   catches up within about a second (`a_drifting_clock_stays_monotonic_and_close`).

use crate::clock::{Clock, SECOND};
use crate::machine::{MachineMemory, NoSuchFrame};
use pv_abi::Mfn;
use pv_abi::shared_info::{SharedInfo, VcpuInfo};
use pv_abi::time::{VcpuTimeInfo, multiplier_for};
use std::mem::offset_of;
use zerocopy::IntoBytes;

/// A clock that is ahead is slowed down by one in this many at most.
pub const SLEW: u64 = 1024;

/// Two readings of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// System time in nanoseconds.
    pub now: u64,
    /// The TSC at that time, as the guest reads it.
    pub tsc: u64,
}

impl Moment {
    /// Reads both clocks as close to each other as a busy host lets it.
    pub fn read(clock: &dyn Clock, tsc: impl Fn() -> u64) -> Self {
        let mut best = (u64::MAX, Self { now: 0, tsc: 0 });
        for _ in 0..ATTEMPTS {
            let before = clock.now();
            let tsc = tsc();
            let apart = clock.now().saturating_sub(before);
            if apart < best.0 {
                best = (apart, Self { now: before.saturating_add(apart / 2), tsc });
            }
            if apart < CLOSE {
                break;
            }
        }
        best.1
    }
}

/// Readings this close to each other (nanoseconds) are good enough.
const CLOSE: u64 = 2_000;
/// How often close readings are tried for.
const ATTEMPTS: u32 = 4;

/// A vCPU's clock as last published.
#[derive(Debug, Default)]
pub struct VcpuClock {
    published: VcpuTimeInfo,
    /// The latest system time that the guest may have read.
    seen: u64,
}

impl VcpuClock {
    /// Notes that the vCPU stops reading the TSC at `tsc`: whatever it read until then stays a floor, whichever
    /// pcpu it goes on on.
    pub fn leave(&mut self, tsc: u64) {
        if self.published.version != 0 {
            self.seen = self.seen.max(self.published.system_time_at(tsc));
        }
    }

    /// Computes the parameters for a vCPU that goes on now.
    pub fn refresh(&mut self, clock: &dyn Clock, tsc: impl Fn() -> u64) -> VcpuTimeInfo {
        let Moment { now, tsc } = Moment::read(clock, tsc);
        let (mul, shift) = multiplier_for(clock.tsc_khz());
        let ahead = self.seen.saturating_sub(now).min(SECOND / SLEW);
        let slower = u64::from(mul).saturating_mul(ahead) / SECOND;
        self.published = VcpuTimeInfo {
            version: self.published.version.wrapping_add(2),
            tsc_timestamp: tsc,
            system_time: now.max(self.seen),
            tsc_to_system_mul: mul.saturating_sub(slower as u32),
            tsc_shift: shift,
            ..VcpuTimeInfo::default()
        };
        self.published
    }
}

/// Publishes `time` in the `vcpu_info` at `offset` of `frame`.
///
/// # Errors
/// [`NoSuchFrame`] where there is none.
pub fn publish(
    memory: &MachineMemory,
    frame: Mfn,
    offset: usize,
    time: &VcpuTimeInfo,
) -> Result<(), NoSuchFrame> {
    let base = offset.saturating_add(offset_of!(VcpuInfo, time));
    memory.store_u32(frame, base, time.version.wrapping_sub(1))?;
    let at = |field: usize| base.saturating_add(field);
    memory.store_u64(frame, at(offset_of!(VcpuTimeInfo, tsc_timestamp)), time.tsc_timestamp)?;
    memory.store_u64(frame, at(offset_of!(VcpuTimeInfo, system_time)), time.system_time)?;
    let scale = offset_of!(VcpuTimeInfo, tsc_to_system_mul);
    memory.write(frame, at(scale), time.as_bytes().get(scale..).unwrap_or_default())?;
    memory.store_u32(frame, base, time.version)
}

/// Publishes the wall clock in the shared page `frame`.
///
/// # Errors
/// [`NoSuchFrame`] where there is none.
pub fn publish_wall_clock(memory: &MachineMemory, frame: Mfn, clock: &dyn Clock) -> Result<(), NoSuchFrame> {
    let start = clock.wall_clock_at_start();
    let version = memory.load_u32(frame, offset_of!(SharedInfo, wc_version))? & !1;
    memory.store_u32(frame, offset_of!(SharedInfo, wc_version), version.wrapping_add(1))?;
    memory.store_u32(frame, offset_of!(SharedInfo, wc_sec), start.as_secs() as u32)?;
    memory.store_u32(frame, offset_of!(SharedInfo, wc_nsec), start.subsec_nanos())?;
    memory.store_u32(frame, offset_of!(SharedInfo, wc_sec_hi), (start.as_secs() >> 32) as u32)?;
    memory.store_u32(frame, offset_of!(SharedInfo, wc_version), version.wrapping_add(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{FakeClock, MILLISECOND};
    use zerocopy::FromBytes;

    /// A guest reads its clock all the time while the TSC runs `ppm` faster than it says, refreshed each `step`.
    fn drift(ppm: i64, step: u64) -> u64 {
        let (clock, mut vcpu, mut last, mut worst) = (FakeClock::default(), VcpuClock::default(), 0, 0);
        let tsc_at = |now: u64| (77_000 + now as i64 + now as i64 * ppm / 1_000_000) as u64;
        while clock.now() < 10 * SECOND {
            let info = vcpu.refresh(&clock, || tsc_at(clock.now()));
            for _ in 0..8 {
                let read = info.system_time_at(tsc_at(clock.now()));
                assert!(read >= last, "{read} after {last}");
                worst = worst.max(read.abs_diff(clock.now()));
                last = read;
                clock.advance(step / 8);
            }
            vcpu.leave(tsc_at(clock.now()));
        }
        worst
    }

    #[test]
    fn a_drifting_clock_stays_monotonic_and_close() {
        for ppm in [-500, -50, 0, 50, 500] {
            for step in [5 * MILLISECOND, 200 * MILLISECOND, SECOND] {
                let worst = drift(ppm, step);
                assert!(worst < MILLISECOND, "{ppm} ppm, refreshed each {step} ns: {worst} ns off");
            }
        }
    }

    #[test]
    fn an_interruption_between_the_two_readings_does_no_harm() {
        let (clock, mut interruptions) = (FakeClock::default(), std::cell::Cell::new(2));
        clock.advance(SECOND);
        let moment = Moment::read(&clock, || {
            let tsc = clock.now() + 7;
            if interruptions.get() > 0 {
                interruptions.set(interruptions.get() - 1);
                clock.advance(5 * MILLISECOND);
            }
            tsc
        });
        assert_eq!((moment.tsc - moment.now, *interruptions.get_mut()), (7, 0));
    }

    #[test]
    fn another_pcpus_tsc_does_not_turn_time_back() {
        let (clock, mut vcpu) = (FakeClock::default(), VcpuClock::default());
        clock.advance(SECOND);
        let before = vcpu.refresh(&clock, || 5_000_000).system_time_at(5_900_000);
        vcpu.leave(5_900_000);
        let after = vcpu.refresh(&clock, || 17).system_time_at(17);
        assert!(after >= before, "{after} after {before}");
    }

    #[test]
    fn versions_are_even_at_rest() {
        let (memory, clock) = (MachineMemory::new(1).unwrap(), FakeClock::default());
        let mut vcpu = VcpuClock::default();
        for _ in 0..3 {
            let info = vcpu.refresh(&clock, || 9);
            publish(&memory, Mfn(0), 64, &info).unwrap();
            publish_wall_clock(&memory, Mfn(0), &clock).unwrap();
            let mut bytes = [0; 32];
            memory.read(Mfn(0), 64 + 32, &mut bytes).unwrap();
            assert_eq!(VcpuTimeInfo::read_from_bytes(&bytes).unwrap(), info);
            assert_eq!((info.version % 2, memory.load_u32(Mfn(0), 3072).unwrap() % 2), (0, 0));
        }
        assert_eq!(memory.load_u32(Mfn(0), 3076).unwrap(), 1_700_000_000);
        assert_eq!(memory.load_u32(Mfn(0), 3080).unwrap(), 500);
    }
}
