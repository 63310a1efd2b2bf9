//! Hypercalls that an unprivileged guest probes for, each with the answer that tells it what it needs to know.

use super::{Arguments, Call, Reply, refuse};
use pv_abi::Errno;

/// `sysctl`, `domctl`, `platform_op`: the host domain's.
pub fn not_permitted(_call: &mut Call<'_>, _arguments: Arguments) -> Reply {
    refuse(Errno::EPERM, "only the host domain controls the machine")
}

/// Answers calls that Xen knows and Paravane does not have: −ENOSYS.
pub fn not_implemented(_call: &mut Call<'_>, _arguments: Arguments) -> Reply {
    refuse(Errno::ENOSYS, "not offered")
}

/// Answers `xenpmu_op`, which Paravane does not support: −EOPNOTSUPP.
pub fn not_supported(_call: &mut Call<'_>, _arguments: Arguments) -> Reply {
    refuse(Errno::EOPNOTSUPP, "there are no performance counters")
}
