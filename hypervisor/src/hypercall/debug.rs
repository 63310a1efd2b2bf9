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

/// `fpu_taskswitch(set)`: sets or clears CR0.TS. −ENOSYS where the host's KVM raises no #NM: a kernel that leaves the FPU's
/// state of another task in place would not notice that it is used.
pub fn fpu_taskswitch(call: &mut Call<'_>, [set, ..]: Arguments) -> Reply {
    let set = set as u32 != 0; // an `int` of C
    if set && !call.services.raises_nm {
        return refuse(Errno::ENOSYS, "the host's KVM raises no #NM at the FPU's next use");
    }
    call.vcpu.context.task_switched = set;
    done()
}
