//! What the domain builder tells the kernel, copied out once.

use alloc::string::String;

use pv_abi::start_info::{StartFlags, StartInfo};
use zerocopy::FromZeros;

use crate::sync::Local;

static START_INFO: Local<Option<StartInfo>> = Local::new(None);

/// Keeps a copy. `address` is what the kernel was entered with.
#[allow(unsafe_code, reason = "the address comes from the domain builder")]
pub fn init(address: u64) {
    let mut copy = StartInfo::new_zeroed();
    // SAFETY: the ABI's promise: the structure lies there, readable.
    unsafe { core::ptr::copy_nonoverlapping(address as *const StartInfo, &mut copy, 1) };
    START_INFO.with(|info| *info = Some(copy));
}

/// Lends the copy to `f`.
pub fn with<R>(f: impl FnOnce(&StartInfo) -> R) -> R {
    START_INFO.with(|info| f(info.as_ref().expect("start_info is kept first")))
}

/// The kernel's command line, up to its first zero byte. It needs the heap: see [`mentions`].
pub fn command_line() -> String {
    with(|info| {
        let end = info.cmd_line.iter().position(|byte| *byte == 0).unwrap_or(info.cmd_line.len());
        String::from_utf8_lossy(&info.cmd_line[..end]).into_owned()
    })
}

/// Whether the command line contains `text`: for those who come before the heap.
pub fn mentions(text: &str) -> bool {
    with(|info| info.cmd_line.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// Whether the domain is the control domain, as under Xen without any other.
pub fn is_control_domain() -> bool {
    StartFlags::from_bits_retain(with(|info| info.flags)).contains(StartFlags::INITDOMAIN)
}
