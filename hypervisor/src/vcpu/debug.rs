//! Debug registers as a guest reads and writes them. Breakpoints are its own business wherever they can be met at
//! CPL3 only: none lies in the hypervisor's addresses, and accesses to the registers do not trap. Those for I/O are never
//! loaded: they are met where port I/O is carried out for the guest.

use super::Vcpu;
use crate::error::Refusal;
use crate::machine::DebugRegisters;
use pv_abi::Errno;
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, is_canonical};

/// CR4: breakpoints on I/O, and no names for DR6 and DR7 but their own.
pub const CR4_DE: u64 = 1 << 3;
/// Bits of DR6 that are always 0.
const STATUS_ZEROS: u64 = !0xffff_efff;
/// Bits of DR7 that are always 0.
const CONTROL_ZEROS: u64 = !0xffff_27ff;
/// Bit of DR7 that traps accesses to the debug registers themselves.
const GENERAL_DETECT: u64 = 1 << 13;
/// The kind of a breakpoint, in DR7: for I/O.
const IO: u64 = 2;

const NO_SUCH_REGISTER: Refusal = Refusal::new(Errno::ENODEV, "no such debug register");

/// The debug registers of a vCPU, and those of its breakpoints that are not loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakpoints {
    /// What a pcpu loads of them.
    pub loaded: DebugRegisters,
    /// The bits of DR7 that arm breakpoints for I/O.
    io: u64,
}

/// Of each breakpoint, its bit in DR6, the bits of DR7 that arm it, and where its kind and its length follow there.
const PLACES: [(u64, u64, u32); 4] = [(1, 3, 16), (2, 3 << 2, 20), (4, 3 << 4, 24), (8, 3 << 6, 28)];

/// The kind of the breakpoint that is described from that bit of DR7 on, and the bytes that it watches.
const fn kind_and_length(control: u64, at: u32) -> (u64, u64) {
    let description = control.wrapping_shr(at);
    let length = match description >> 2 & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    };
    (description & 3, length)
}

impl Breakpoints {
    /// Sets register `number` of a vCPU that has this in CR4.
    ///
    /// # Errors
    /// −ENODEV where there is none, −EINVAL for values of more than 32 bits in DR6 and DR7, −EPERM for what no guest may
    /// set, or not without CR4.DE.
    pub fn set(&mut self, number: u64, value: u64, cr4: u64) -> Result<(), Refusal> {
        match number {
            0..=3 => {
                let hypervisors = (HYPERVISOR_VIRT_START..HYPERVISOR_VIRT_END).contains(&value);
                if hypervisors || !is_canonical(value) {
                    return Err(Refusal::new(Errno::EPERM, "no breakpoint can be there"));
                }
                if let Some(address) = self.loaded.addresses.get_mut(number as usize) {
                    *address = value;
                }
            }
            6 | 7 if value >> 32 != 0 => {
                return Err(Refusal::new(Errno::EINVAL, "DR6 and DR7 have 32 bits"));
            }
            6 => self.loaded.status = value & !STATUS_ZEROS | DebugRegisters::STATUS_AT_REST,
            7 => self.set_control(value, cr4)?,
            _ => return Err(NO_SUCH_REGISTER),
        }
        Ok(())
    }

    fn set_control(&mut self, value: u64, cr4: u64) -> Result<(), Refusal> {
        if value & GENERAL_DETECT != 0 {
            return Err(Refusal::new(Errno::EPERM, "general detect is not a guest's"));
        }
        let for_io = PLACES.iter().filter(|(_, _, at)| kind_and_length(value, *at).0 == IO);
        let io = for_io.fold(0, |all, (_, arms, _)| all | value & arms);
        if io != 0 && cr4 & CR4_DE == 0 {
            return Err(Refusal::new(Errno::EPERM, "breakpoints on I/O need CR4.DE"));
        }
        self.loaded.control = value & !CONTROL_ZEROS & !io | DebugRegisters::CONTROL_AT_REST;
        self.io = io;
        Ok(())
    }

    /// Reads register `number`.
    ///
    /// # Errors
    /// −ENODEV where there is none.
    pub fn get(&self, number: u64) -> Result<u64, Refusal> {
        match number {
            0..=3 => self.loaded.addresses.get(number as usize).copied().ok_or(NO_SUCH_REGISTER),
            6 => Ok(self.loaded.status),
            7 => Ok(self.loaded.control | self.io),
            _ => Err(NO_SUCH_REGISTER),
        }
    }

    /// The breakpoints that an access to `size` ports from `port` on meets, as bits of DR6. As in memory, one of several
    /// bytes lies at a multiple of them, whatever its address says.
    pub fn met_by_io(&self, port: u16, size: usize) -> u64 {
        let (port, end) = (u64::from(port), u64::from(port).saturating_add(size as u64));
        let is_met = |address: u64, (_, arms, at): (u64, u64, u32)| {
            let (_, length) = kind_and_length(self.loaded.control, at);
            let start = address & !length.wrapping_sub(1);
            self.io & arms != 0 && start < end && port < start.saturating_add(length)
        };
        let breakpoints = self.loaded.addresses.into_iter().zip(PLACES);
        let met = breakpoints.filter(|&(address, place)| is_met(address, place));
        met.fold(0, |bits, (_, (bit, ..))| bits | bit)
    }
}

impl Vcpu {
    /// The debug registers as the guest sees them.
    pub fn breakpoints(&self) -> Breakpoints {
        Breakpoints { loaded: self.context.debug, io: self.io_breakpoints }
    }

    /// Sets the debug registers as the guest sees them.
    pub fn set_breakpoints(&mut self, breakpoints: Breakpoints) {
        (self.context.debug, self.io_breakpoints) = (breakpoints.loaded, breakpoints.io);
    }

    /// Sets debug register `number`.
    ///
    /// # Errors
    /// As [`Breakpoints::set`].
    pub fn set_debug_register(&mut self, number: u64, value: u64) -> Result<(), Refusal> {
        let mut breakpoints = self.breakpoints();
        breakpoints.set(number, value, self.cr4)?;
        self.set_breakpoints(breakpoints);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DR7 that arms breakpoint `n` for `length` ports; the length as DR7 has it.
    const fn on_io(n: usize, length: u64) -> u64 {
        0x400 | 1 << (2 * n) | (IO | length << 2) << (16 + 4 * n)
    }

    #[test]
    fn breakpoints_on_io_need_de_and_are_not_loaded() {
        let mut breakpoints = Breakpoints::default();
        for n in 0..4 {
            let control = on_io(n, 0) | 2 << (2 * ((n + 1) % 4));
            let before = breakpoints;
            assert_eq!(breakpoints.set(7, control, !CR4_DE).unwrap_err().errno, Errno::EPERM);
            assert_eq!(breakpoints, before, "nothing has changed");
            breakpoints.set(7, control, CR4_DE).unwrap();
            assert_eq!(breakpoints.get(7).unwrap(), control);
            assert_eq!(breakpoints.loaded.control, control & !(1 << (2 * n)), "the other one is loaded");
        }
        breakpoints.set(7, 0, 0).unwrap();
        assert_eq!(breakpoints, Breakpoints::default());
    }

    #[test]
    fn an_access_meets_what_it_overlaps() {
        let mut breakpoints = Breakpoints::default();
        breakpoints.set(2, 0x61, 0).unwrap();
        for (length, first, last) in [(0, 0x61, 0x61), (1, 0x60, 0x61), (3, 0x60, 0x63)] {
            breakpoints.set(7, on_io(2, length), CR4_DE).unwrap();
            for port in 0x50..0x70 {
                for size in [1, 2, 4] {
                    let overlaps = port <= last && first < port + size;
                    let met = breakpoints.met_by_io(port, size.into());
                    assert_eq!(met, u64::from(overlaps) << 2, "{length} {port:#x} {size}");
                }
            }
        }
        breakpoints.set(7, 0x400 | 1 << 4 | 1 << 24, 0).unwrap();
        assert_eq!(breakpoints.met_by_io(0x61, 1), 0, "one for stores");
        breakpoints.set(2, u64::MAX, 0).unwrap();
        breakpoints.set(7, on_io(2, 3), CR4_DE).unwrap();
        assert_eq!(breakpoints.met_by_io(u16::MAX, 4), 0);
    }

    #[test]
    fn a_breakpoint_may_watch_eight_ports() {
        let mut breakpoints = Breakpoints::default();
        breakpoints.set(0, 0x65, 0).unwrap();
        breakpoints.set(7, on_io(0, 2), CR4_DE).unwrap();
        for (port, met) in [(0x5f, 0), (0x60, 1), (0x67, 1), (0x68, 0)] {
            assert_eq!(breakpoints.met_by_io(port, 1), met, "{port:#x}");
        }
    }
}
