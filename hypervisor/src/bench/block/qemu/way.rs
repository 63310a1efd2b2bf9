//! How QEMU is told to run the guest and to reach its disk.

use std::fmt;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accelerator {
    /// `-accel kvm`: the host's KVM, as for Paravane's own guests.
    Kvm,
    /// QEMU's own translation.
    Tcg,
}

impl Accelerator {
    const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// By which of the host's calls QEMU reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    /// The ordinary ones, in threads of its own: what it does unless told otherwise.
    Threads,
    /// Linux's older asynchronous ones, which are for files past the cache.
    Native,
    /// The calls of io_uring.
    IoUring,
}

impl Calls {
    const fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Native => "native",
            Self::IoUring => "io_uring",
        }
    }
}

/// How QEMU is told to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    accelerator: Accelerator,
    calls: Calls,
    /// Whether past the host's page cache.
    direct: bool,
}

impl Way {
    /// All ways for a file past the host's page cache (`direct`), or for one through it.
    pub fn all(direct: bool) -> [Self; 4] {
        let other = if direct { Calls::Native } else { Calls::Threads };
        let way = |accelerator, calls| Self { accelerator, calls, direct };
        let (kvm, tcg) = (Accelerator::Kvm, Accelerator::Tcg);
        [way(kvm, Calls::IoUring), way(kvm, other), way(tcg, Calls::IoUring), way(tcg, other)]
    }

    /// The name of its accelerator.
    pub const fn accelerator(self) -> &'static str {
        self.accelerator.name()
    }

    /// The argument of its `-drive`, for a disk in a file of that name.
    pub fn drive(self, file: &str) -> String {
        let cache = if self.direct { "none" } else { "writeback" };
        format!("if=none,id=disk,format=raw,file={file},cache={cache},aio={}", self.calls.name())
    }

    /// The argument of its `-device`. With KVM the disk has a thread of its own, which polls; without, it cannot have one.
    pub const fn device(self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "virtio-blk-device,drive=disk,iothread=thread",
            Accelerator::Tcg => "virtio-blk-device,drive=disk",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.accelerator.name(), self.calls.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_another_and_says_so() {
        for direct in [false, true] {
            let names: std::collections::BTreeSet<_> = Way::all(direct).iter().map(Way::to_string).collect();
            assert_eq!(names.len(), 4, "{names:?}");
            let cache = if direct { "cache=none" } else { "cache=writeback" };
            assert!(Way::all(direct).iter().all(|way| way.drive("disk").contains(cache)));
        }
    }
}
