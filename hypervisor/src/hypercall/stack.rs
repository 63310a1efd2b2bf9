//! `stack_switch` and `iret`: the kernel's way to user mode and back.

use super::{Arguments, Call, Outcome, Reply, done};
use crate::vcpu;

/// `stack_switch(ss, rsp)`: the stack that traps from user mode arrive on. The selector is always the flat one.
pub fn stack_switch(call: &mut Call<'_>, [_ss, rsp, ..]: Arguments) -> Reply {
    call.vcpu.kernel_stack = rsp;
    done()
}

/// `iret()`: what to go on with lies on the stack.
pub fn iret(call: &mut Call<'_>, _arguments: Arguments) -> Reply {
    vcpu::iret(call.vcpu, call.handle.info(), &call.services.mmu)?;
    Ok(Outcome::Resumed)
}
