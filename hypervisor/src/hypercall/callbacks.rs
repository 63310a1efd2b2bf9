//! Entry points of the guest's kernel: `callback_op`, and `set_callbacks`, its older form.

use super::{Arguments, Call, Reply, done, no_such_operation, refuse};
use crate::error::Refusal;
use crate::vcpu::Callback;
use pv_abi::Errno;
use pv_abi::address::is_canonical;
use pv_abi::callback::{CallbackFlags, CallbackOp, CallbackRegister, CallbackType};

fn callback(address: u64, masks_events: bool) -> Result<Option<Callback>, Refusal> {
    if !is_canonical(address) {
        return Err(Refusal::new(Errno::EINVAL, "the entry point's address is not canonical"));
    }
    Ok((address != 0).then_some(Callback { address, masks_events }))
}

/// `callback_op(op, argument)`.
pub fn callback_op(call: &mut Call<'_>, [op, argument, ..]: Arguments) -> Reply {
    match CallbackOp(op) {
        CallbackOp::REGISTER => register(call, call.read(argument)?),
        CallbackOp::UNREGISTER => {
            let kind: CallbackType = call.read(argument)?;
            match kind {
                CallbackType::EVENT | CallbackType::FAILSAFE | CallbackType::SYSCALL => {
                    refuse(Errno::EINVAL, "this entry point can be replaced, not removed")
                }
                CallbackType::SYSENTER => {
                    call.vcpu.callbacks.sysenter = None;
                    done()
                }
                CallbackType::SYSCALL32 => {
                    call.vcpu.callbacks.syscall32 = None;
                    done()
                }
                CallbackType::NMI => done(),
                _ => refuse(Errno::ENOSYS, "no such entry point"),
            }
        }
        _ => no_such_operation(),
    }
}

fn register(call: &mut Call<'_>, entry: CallbackRegister) -> Reply {
    let masks_events = CallbackFlags::from_bits_retain(entry.flags).contains(CallbackFlags::MASK_EVENTS);
    let callback = callback(entry.address, masks_events)?;
    let callbacks = &mut call.vcpu.callbacks;
    match entry.kind {
        CallbackType::EVENT => callbacks.event = callback,
        CallbackType::FAILSAFE => callbacks.failsafe = callback,
        CallbackType::SYSCALL => callbacks.syscall = callback,
        CallbackType::SYSENTER => callbacks.sysenter = callback,
        CallbackType::SYSCALL32 => callbacks.syscall32 = callback,
        // No guest gets an NMI.
        CallbackType::NMI => {}
        CallbackType::SYSENTER_DEPRECATED => return refuse(Errno::EINVAL, "obsolete entry point"),
        _ => return refuse(Errno::ENOSYS, "no such entry point"),
    }
    done()
}

/// `set_callbacks(event, failsafe, syscall)`: addresses. As on Xen it never fails, and leaves out what is no address.
pub fn set_callbacks(call: &mut Call<'_>, [event, failsafe, syscall, ..]: Arguments) -> Reply {
    let callbacks = &mut call.vcpu.callbacks;
    for (place, address, masks_events) in [
        (&mut callbacks.event, event, true),
        (&mut callbacks.failsafe, failsafe, false),
        (&mut callbacks.syscall, syscall, false),
    ] {
        if let Ok(callback) = callback(address, masks_events) {
            *place = callback;
        }
    }
    done()
}
