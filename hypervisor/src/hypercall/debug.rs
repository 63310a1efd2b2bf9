//! Debug registers and CR0.TS: state of the processor that a context does not carry. What would need it is
//! refused, and what needs only an answer gets one.

use super::{Arguments, Call, Outcome, Reply, done, refuse};
use pv_abi::Errno;
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, is_canonical};

/// Bits of DR7 that arm a breakpoint.
const ARMED: u64 = 0xff;
/// Bit of DR7 that traps accesses to the debug registers themselves.
const GENERAL_DETECT: u64 = 1 << 13;

/// `set_debugreg(register, value)`.
pub fn set_debugreg(call: &mut Call<'_>, [register, value, ..]: Arguments) -> Reply {
    match register {
        0..=3 if !is_canonical(value) || (HYPERVISOR_VIRT_START..HYPERVISOR_VIRT_END).contains(&value) => {
            return refuse(Errno::EPERM, "no breakpoint can be there");
        }
        7 if value & GENERAL_DETECT != 0 => return refuse(Errno::EPERM, "general detect is not a guest's"),
        7 if value & ARMED != 0 => return refuse(Errno::EOPNOTSUPP, "breakpoints are not offered"),
        0..=3 | 6 | 7 => {}
        _ => return refuse(Errno::EINVAL, "no such debug register"),
    }
    if let Some(slot) = call.vcpu.debug.get_mut(register as usize) {
        *slot = value;
    }
    done()
}

/// `get_debugreg(register)`.
pub fn get_debugreg(call: &mut Call<'_>, [register, ..]: Arguments) -> Reply {
    match register {
        0..=3 | 6 | 7 => {
            let value = call.vcpu.debug.get(register as usize).copied();
            Ok(Outcome::Done(value.unwrap_or_default()))
        }
        _ => refuse(Errno::EINVAL, "no such debug register"),
    }
}

/// `fpu_taskswitch(set)`. FPU state is switched eagerly and #NM never comes, so TS can be cleared only.
pub fn fpu_taskswitch(_call: &mut Call<'_>, [set, ..]: Arguments) -> Reply {
    if set == 0 { done() } else { refuse(Errno::ENOSYS, "a trap on the FPU's next use is not offered") }
}
