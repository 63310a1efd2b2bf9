//! Ending the domain.

use pv_abi::extension::{CPUID_LEAF, ExtensionFeatures, SIGNATURE};
use pv_abi::sched::ShutdownReason;

use crate::arch::{hypercall, processor};
use crate::driver::console;

/// What the hypervisor offers beyond Xen's ABI.
pub fn extensions() -> ExtensionFeatures {
    let [features, signature @ ..] = processor::cpuid(CPUID_LEAF);
    if signature == SIGNATURE {
        ExtensionFeatures::from_bits_retain(features)
    } else {
        ExtensionFeatures::empty()
    }
}

/// Powers off. A status other than 0 is printed, and handed to whoever started the domain if the
/// hypervisor can do that; Xen's own shutdown carries none.
pub fn off(status: u8) -> ! {
    if status != 0 {
        println!("powering off with status {status}");
        if extensions().contains(ExtensionFeatures::EXIT_STATUS) {
            // A refusal leaves the line above as the only trace.
            let _ = hypercall::set_exit_status(status);
        }
    }
    end(ShutdownReason::POWEROFF)
}

/// Asks to be started again.
pub fn reboot() -> ! {
    end(ShutdownReason::REBOOT)
}

fn end(reason: ShutdownReason) -> ! {
    console::drain();
    hypercall::shutdown(reason)
}
