//! Where a guest's kernel is entered for anything but exceptions.

/// An entry point of the kernel, registered by `callback_op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Its address, canonical.
    pub address: u64,
    /// Enter it with upcalls masked.
    pub masks_events: bool,
}

/// The entry points of the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Callbacks {
    /// An event is pending. Always entered with upcalls masked.
    pub event: Option<Callback>,
    /// What a frame asked for cannot be loaded.
    pub failsafe: Option<Callback>,
    /// `syscall` of 64-bit code in user mode.
    pub syscall: Option<Callback>,
    /// `syscall` of 32-bit code in user mode (`CALLBACKTYPE_syscall32`).
    pub syscall32: Option<Callback>,
    /// `sysenter` in user mode (`CALLBACKTYPE_sysenter`).
    pub sysenter: Option<Callback>,
}
