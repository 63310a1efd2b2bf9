//! Debug registers as a guest reads and writes them. Breakpoints are its own business wherever they can be met at
//! CPL3 only: none lies in the hypervisor's addresses, none is for I/O, and accesses to the registers do not trap.

use crate::error::Refusal;
use crate::machine::DebugRegisters;
use pv_abi::Errno;
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, is_canonical};

/// Bits of DR6 that are always 0.
const STATUS_ZEROS: u64 = !0xffff_efff;
/// Bits of DR7 that are always 0.
const CONTROL_ZEROS: u64 = !0xffff_27ff;
/// Bit of DR7 that traps accesses to the debug registers themselves.
const GENERAL_DETECT: u64 = 1 << 13;

const NO_SUCH_REGISTER: Refusal = Refusal::new(Errno::ENODEV, "no such debug register");

/// Whether a breakpoint that is armed is one for I/O.
fn arms_io(control: u64) -> bool {
    let [enabled, kinds] = [control & 0xff, control >> 16];
    [(0, 0), (2, 4), (4, 8), (6, 12)].iter().any(|&(n, m)| enabled >> n & 3 != 0 && kinds >> m & 3 == 2)
}

/// Sets register `number`.
///
/// # Errors
/// −ENODEV where there is none, −EPERM for what no guest may set.
pub fn set(registers: &mut DebugRegisters, number: u64, value: u64) -> Result<(), Refusal> {
    match number {
        0..=3 => {
            let hypervisors = (HYPERVISOR_VIRT_START..HYPERVISOR_VIRT_END).contains(&value);
            if hypervisors || !is_canonical(value) {
                return Err(Refusal::new(Errno::EPERM, "no breakpoint can be there"));
            }
            if let Some(address) = registers.addresses.get_mut(number as usize) {
                *address = value;
            }
        }
        6 => registers.status = value & !STATUS_ZEROS | DebugRegisters::STATUS_AT_REST,
        7 if value & GENERAL_DETECT != 0 => {
            return Err(Refusal::new(Errno::EPERM, "general detect is not a guest's"));
        }
        7 if arms_io(value) => {
            return Err(Refusal::new(Errno::EPERM, "breakpoints on I/O are not a guest's"));
        }
        7 => registers.control = value & !CONTROL_ZEROS | DebugRegisters::CONTROL_AT_REST,
        _ => return Err(NO_SUCH_REGISTER),
    }
    Ok(())
}

/// Reads register `number`.
///
/// # Errors
/// −ENODEV where there is none.
pub fn get(registers: &DebugRegisters, number: u64) -> Result<u64, Refusal> {
    match number {
        0..=3 => registers.addresses.get(number as usize).copied().ok_or(NO_SUCH_REGISTER),
        6 => Ok(registers.status),
        7 => Ok(registers.control),
        _ => Err(NO_SUCH_REGISTER),
    }
}
