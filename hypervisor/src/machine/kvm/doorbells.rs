//! Doorbells as KVM has them: an `ioeventfd` on a machine address without memory. KVM finds it by address, length and
//! value, signals, and goes on in the guest; what it does not find exits ([`super::pcpu`]).

use super::super::{Doorbells, MachineError};
use super::area::DoorbellAddresses;
use kvm_ioctls::{IoEventAddress, VmFd};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// The doorbells of a VM.
#[derive(Debug)]
pub struct KvmDoorbells {
    vm: Arc<VmFd>,
    addresses: DoorbellAddresses,
}

impl KvmDoorbells {
    pub(super) fn new(vm: Arc<VmFd>, addresses: DoorbellAddresses) -> Self {
        Self { vm, addresses }
    }
}

/// Uses `bell` in the form in which kvm-ioctls wants an eventfd.
fn with_eventfd<R>(bell: BorrowedFd<'_>, work: impl FnOnce(&EventFd) -> R) -> R {
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open for as long as it is borrowed, which is longer than `work` takes, and is not closed by
    // this.
    let bell = ManuallyDrop::new(unsafe { EventFd::from_raw_fd(bell.as_raw_fd()) });
    work(&bell)
}

impl Doorbells for KvmDoorbells {
    fn hang(&self, page: usize, value: u32, bell: BorrowedFd<'_>) -> Result<(), MachineError> {
        let at = IoEventAddress::Mmio(self.addresses.page(page));
        let hung = with_eventfd(bell, |bell| self.vm.register_ioevent(bell, &at, value));
        hung.map_err(|error| MachineError::new("a doorbell cannot be hung up (KVM_IOEVENTFD)", error))
    }

    fn take_down(&self, page: usize, value: u32, bell: BorrowedFd<'_>) -> Result<(), MachineError> {
        let at = IoEventAddress::Mmio(self.addresses.page(page));
        let down = with_eventfd(bell, |bell| self.vm.unregister_ioevent(bell, &at, value));
        down.map_err(|error| MachineError::new("a doorbell cannot be taken down (KVM_IOEVENTFD)", error))
    }
}
