//! Debug registers and CR0.TS.

use super::{Arguments, Call, Outcome, Reply, done, refuse};
use pv_abi::Errno;

/// `set_debugreg(register, value)`.
pub fn set_debugreg(call: &mut Call<'_>, [register, value, ..]: Arguments) -> Reply {
    call.vcpu.set_debug_register(register, value)?;
    done()
}

/// `get_debugreg(register)`.
pub fn get_debugreg(call: &mut Call<'_>, [register, ..]: Arguments) -> Reply {
    Ok(Outcome::Done(call.vcpu.breakpoints().get(register)?))
}

/// `fpu_taskswitch(set)`. FPU state is switched eagerly and #NM never comes, so TS can be cleared only.
pub fn fpu_taskswitch(_call: &mut Call<'_>, [set, ..]: Arguments) -> Reply {
    if set == 0 { done() } else { refuse(Errno::ENOSYS, "a trap on the FPU's next use is not offered") }
}
