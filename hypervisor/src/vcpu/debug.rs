//! Debug registers as a guest reads and writes them. They are numbers only: no processor ever gets them.

use crate::error::Refusal;
use pv_abi::Errno;
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, is_canonical};

/// Bits of DR6 that are always 1, and those that are always 0.
const STATUS_ONES: u64 = 0xffff_0ff0;
const STATUS_ZEROS: u64 = !0xffff_efff;
/// The same of DR7.
const CONTROL_ONES: u64 = 1 << 10;
const CONTROL_ZEROS: u64 = !0xffff_27ff;
/// Bits of DR7 that arm a breakpoint.
const ARMED: u64 = 0xff;
/// Bit of DR7 that traps accesses to the debug registers themselves.
const GENERAL_DETECT: u64 = 1 << 13;

/// DR0–3, DR6 and DR7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    status: u64,
    control: u64,
}

impl Default for DebugRegisters {
    fn default() -> Self {
        Self { addresses: [0; 4], status: STATUS_ONES, control: CONTROL_ONES }
    }
}

const NO_SUCH_REGISTER: Refusal = Refusal::new(Errno::ENODEV, "no such debug register");

impl DebugRegisters {
    /// Sets register `number`.
    ///
    /// # Errors
    /// −ENODEV where there is none, −EPERM for what no guest may set, −EOPNOTSUPP for an armed breakpoint.
    pub fn set(&mut self, number: u64, value: u64) -> Result<(), Refusal> {
        match number {
            0..=3 => {
                let hypervisors = (HYPERVISOR_VIRT_START..HYPERVISOR_VIRT_END).contains(&value);
                if hypervisors || !is_canonical(value) {
                    return Err(Refusal::new(Errno::EPERM, "no breakpoint can be there"));
                }
                if let Some(address) = self.addresses.get_mut(number as usize) {
                    *address = value;
                }
            }
            6 => self.status = value & !STATUS_ZEROS | STATUS_ONES,
            7 if value & GENERAL_DETECT != 0 => {
                return Err(Refusal::new(Errno::EPERM, "general detect is not a guest's"));
            }
            7 if value & ARMED != 0 => {
                return Err(Refusal::new(Errno::EOPNOTSUPP, "breakpoints are not offered"));
            }
            7 => self.control = value & !CONTROL_ZEROS | CONTROL_ONES,
            _ => return Err(NO_SUCH_REGISTER),
        }
        Ok(())
    }

    /// Reads register `number`.
    ///
    /// # Errors
    /// −ENODEV where there is none.
    pub fn get(&self, number: u64) -> Result<u64, Refusal> {
        match number {
            0..=3 => self.addresses.get(number as usize).copied().ok_or(NO_SUCH_REGISTER),
            6 => Ok(self.status),
            7 => Ok(self.control),
            _ => Err(NO_SUCH_REGISTER),
        }
    }
}
