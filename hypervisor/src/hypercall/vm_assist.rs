//! `vm_assist`: optional behaviour, off until asked for.

use super::{Arguments, Call, Reply, done, no_such_operation, refuse};
use pv_abi::Errno;
use std::sync::atomic::Ordering;

const ENABLE: u64 = 0;
const DISABLE: u64 = 1;

/// The types that can be switched: 0 and 1 (4 GiB segments) and 3 (page directories above 4 GiB), which concern 32-bit
/// guests only; 2, stores to page tables are updates; 4, the I/O privilege level shows in RFLAGS; 5, an update of the
/// runstate is marked while it lasts.
const OFFERED: u64 = 0b11_1111;

/// `vm_assist(command, type)`.
pub fn vm_assist(call: &mut Call<'_>, [command, kind, ..]: Arguments) -> Reply {
    let bit = u32::try_from(kind).ok().and_then(|kind| 1_u64.checked_shl(kind)).unwrap_or(0);
    if bit & OFFERED == 0 {
        return refuse(Errno::EINVAL, "this assist is not offered");
    }
    match command {
        ENABLE => call.vcpu.assists.fetch_or(bit, Ordering::Relaxed),
        DISABLE => call.vcpu.assists.fetch_and(!bit, Ordering::Relaxed),
        _ => return no_such_operation(),
    };
    done()
}
