//! KVM_RUN and the page through which it talks: `kvm_run`.
//!
//! The page is written by the kernel during KVM_RUN and, in one byte, by whoever kicks; so it is reached through
//! a raw pointer and plain copies, never through a reference. kvm-ioctls hands out `&mut kvm_run` and takes
//! `&mut self` to run, which a kick from another thread would make unsound.
#![allow(unsafe_code)] // the shared page and the one ioctl on it

use super::super::{MachineError, MachineMemory};
use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, KVMIO, kvm_regs, kvm_run,
    kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);

/// Why the ioctl `KVM_RUN` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A signal, or `immediate_exit`.
    Interrupted,
    /// The machine executed `out` to this port.
    Out { port: u16 },
    /// An access to a machine address without memory.
    Mmio { address: u64, length: u32, is_write: bool },
    /// KVM could not emulate an instruction.
    InternalError { suberror: u32 },
    /// The machine had a triple fault.
    Shutdown,
    /// The CPU refused the guest state.
    FailedEntry { reason: u64 },
    /// Nothing that this machine should cause.
    Other(u32),
}

/// The mapping of one KVM vCPU's `kvm_run`, shared with whoever kicks.
#[derive(Debug)]
pub struct Mapping {
    page: *mut kvm_run,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared `Mapping` gives access to `immediate_exit` only, which is an atomic; the rest is used by the
// one [`Run`] that was made with it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The flag that makes KVM_RUN return at once; any thread may set it.
    pub fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lives as long as `self`; every access to it in this process is through this atomic.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.page).immediate_exit) }
    }
}

#[cfg(test)]
impl Mapping {
    /// A page that no kernel looks at.
    pub fn without_vcpu() -> Self {
        let length = size_of::<kvm_run>();
        // SAFETY: a new mapping at an address that the kernel chooses.
        let page = unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0)
        };
        assert_ne!(page, libc::MAP_FAILED);
        Self { page: page.cast(), length }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `Run::new`, unmapped once.
        unsafe { libc::munmap(self.page.cast(), self.length) };
    }
}

/// How often KVM_RUN is made before EAGAIN is believed, and the pause between two: about a second in all. KVM says EAGAIN
/// where it cannot start a thread of its own, as under a limit of processes, and has not entered the guest then.
const ATTEMPTS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// Makes a call again while it ends with EAGAIN, up to [`ATTEMPTS`] times.
fn retried<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    for _ in 1..ATTEMPTS {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    call()
}

/// A KVM vCPU and the right to run it.
#[derive(Debug)]
pub struct Run {
    vcpu: VcpuFd,
    mapping: Arc<Mapping>,
    /// What it runs in, which stays mapped as long as it can run.
    _memory: Arc<MachineMemory>,
}

impl Run {
    /// Maps the page of `vcpu`, which is `length` bytes long (KVM_GET_VCPU_MMAP_SIZE). `memory` is that of its VM.
    ///
    /// # Errors
    /// The host's, or where the page is too short.
    pub fn new(vcpu: VcpuFd, length: usize, memory: Arc<MachineMemory>) -> Result<Self, MachineError> {
        const CANNOT: &str = "a pcpu's kvm_run cannot be mapped";
        if length < size_of::<kvm_run>() {
            return Err(MachineError::new(CANNOT, std::io::Error::other(format!("it has {length} bytes"))));
        }
        // SAFETY: a new shared mapping at an address that the kernel chooses.
        let page = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0)
        };
        if page == libc::MAP_FAILED {
            return Err(MachineError::new(CANNOT, std::io::Error::last_os_error()));
        }
        let mapping = Arc::new(Mapping { page: page.cast(), length });
        let mut this = Self { vcpu, mapping, _memory: memory };
        this.synchronise(KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS);
        Ok(this)
    }

    /// Chooses what KVM reports at each exit; all there is, unless told otherwise.
    pub fn synchronise(&mut self, parts: u32) {
        // SAFETY: the owner writes between two KVM_RUN.
        unsafe { (*self.mapping.page).kvm_valid_regs = parts.into() };
    }

    /// The vCPU, for everything but running it.
    pub fn vcpu(&self) -> &VcpuFd {
        &self.vcpu
    }

    /// The mapping of `kvm_run`, which whoever kicks this vCPU needs.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Runs the vCPU until it exits. Only its own thread may.
    ///
    /// # Errors
    /// The host's, also where it has no resources for this for about a second; an interruption is none.
    pub fn run(&mut self) -> Result<Reason, MachineError> {
        let vcpu = self.vcpu.as_raw_fd();
        // SAFETY: the descriptor is a vCPU's, and this ioctl takes no argument. It writes machine memory, which
        // no Rust reference points into, and this page.
        let result = retried(|| match unsafe { libc::ioctl(vcpu, KVM_RUN(), 0) } {
            0.. => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
        match result {
            Ok(()) => Ok(self.reason()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Ok(Reason::Interrupted),
                Some(libc::EAGAIN) => {
                    let what = format!(
                        "a pcpu cannot run: KVM_RUN has failed {ATTEMPTS} times in a row; look whether the host lets \
                         this process have more threads (ulimit -u, pids.max of its cgroup)"
                    );
                    Err(MachineError::new(what, error))
                }
                _ => Err(MachineError::new("a pcpu cannot run (KVM_RUN)", error)),
            },
        }
    }

    fn reason(&self) -> Reason {
        // SAFETY: the kernel is done with the page until the next KVM_RUN; the union's field is the one that the
        // exit reason selects, and all of them are plain numbers.
        unsafe {
            let run = self.mapping.page;
            match (*run).exit_reason {
                KVM_EXIT_INTR => Reason::Interrupted,
                KVM_EXIT_IO if u32::from((*run).__bindgen_anon_1.io.direction) == KVM_EXIT_IO_OUT => {
                    Reason::Out { port: (*run).__bindgen_anon_1.io.port }
                }
                KVM_EXIT_MMIO => {
                    let mmio = (*run).__bindgen_anon_1.mmio;
                    Reason::Mmio { address: mmio.phys_addr, length: mmio.len, is_write: mmio.is_write != 0 }
                }
                KVM_EXIT_INTERNAL_ERROR => {
                    Reason::InternalError { suberror: (*run).__bindgen_anon_1.internal.suberror }
                }
                KVM_EXIT_SHUTDOWN => Reason::Shutdown,
                KVM_EXIT_FAIL_ENTRY => Reason::FailedEntry {
                    reason: (*run).__bindgen_anon_1.fail_entry.hardware_entry_failure_reason,
                },
                other => Reason::Other(other),
            }
        }
    }

    /// Answers a pending MMIO read with zeros.
    pub fn answer_mmio_with_zeros(&mut self) {
        // SAFETY: called with an MMIO exit pending, by the owner.
        unsafe { (*self.mapping.page).__bindgen_anon_1.mmio.data = [0; 8] };
    }

    /// The general registers at the last exit.
    pub fn regs(&self) -> kvm_regs {
        // SAFETY: the owner reads between two KVM_RUN; KVM fills this part at every exit.
        unsafe { (*self.mapping.page).s.regs.regs }
    }

    /// The general registers for the next KVM_RUN.
    pub fn set_regs(&mut self, regs: &kvm_regs) {
        // SAFETY: the owner writes between two KVM_RUN.
        unsafe {
            (*self.mapping.page).s.regs.regs = *regs;
            (*self.mapping.page).kvm_dirty_regs |= u64::from(KVM_SYNC_X86_REGS);
        }
    }

    /// Segments, control registers and the like at the last exit.
    pub fn sregs(&self) -> kvm_sregs {
        // SAFETY: as for `regs`.
        unsafe { (*self.mapping.page).s.regs.sregs }
    }

    /// The same for the next KVM_RUN.
    pub fn set_sregs(&mut self, sregs: &kvm_sregs) {
        // SAFETY: as for `set_regs`.
        unsafe {
            (*self.mapping.page).s.regs.sregs = *sregs;
            (*self.mapping.page).kvm_dirty_regs |= u64::from(KVM_SYNC_X86_SREGS);
        }
    }

    /// Whether an exception waits to be delivered at the next KVM_RUN.
    pub fn has_pending_exception(&self) -> bool {
        // SAFETY: as for `regs`.
        let events = unsafe { (*self.mapping.page).s.regs.events };
        events.exception.injected | events.exception.pending != 0
    }

    /// Drops an exception that waits to be delivered, if there is one.
    pub fn drop_pending_exception(&mut self) {
        if !self.has_pending_exception() {
            return;
        }
        // SAFETY: as for `set_regs`.
        unsafe {
            let events: *mut kvm_vcpu_events = &raw mut (*self.mapping.page).s.regs.events;
            (*events).exception.injected = 0;
            (*events).exception.pending = 0;
            (*self.mapping.page).kvm_dirty_regs |= u64::from(KVM_SYNC_X86_EVENTS);
        }
    }

    /// Forgets that the last instruction was a load of SS, which would hold back a #DB until behind the next one.
    pub fn end_interrupt_shadow(&mut self) {
        // SAFETY: as for `set_regs`.
        unsafe {
            let events: *mut kvm_vcpu_events = &raw mut (*self.mapping.page).s.regs.events;
            if (*events).interrupt.shadow != 0 {
                (*events).interrupt.shadow = 0;
                (*self.mapping.page).kvm_dirty_regs |= u64::from(KVM_SYNC_X86_EVENTS);
            }
        }
    }

    /// Carries out what an exit left half-done, so that other state can be loaded: after an exit for I/O or MMIO,
    /// KVM finishes the instruction at the next KVM_RUN, whatever registers it finds then.
    ///
    /// # Errors
    /// The host's.
    pub fn complete(&mut self) -> Result<(), MachineError> {
        loop {
            self.mapping.immediate_exit().store(1, Ordering::SeqCst);
            match self.run()? {
                Reason::Interrupted => return Ok(()),
                // An access that spans several pages or more than 8 bytes exits once for each part.
                Reason::Mmio { .. } => self.answer_mmio_with_zeros(),
                reason => {
                    let error = std::io::Error::other(format!("{reason:?}"));
                    return Err(MachineError::new("an access could not be completed", error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, Result};

    /// A call that ends with EAGAIN so often, and with `last` from then on; and how often it was made.
    fn made(refusals: u32, last: fn() -> Result<()>) -> (Result<()>, u32) {
        let mut made = 0;
        let result = retried(|| {
            made += 1;
            if made <= refusals { Err(Error::from_raw_os_error(libc::EAGAIN)) } else { last() }
        });
        (result, made)
    }

    #[test]
    fn a_host_without_resources_is_asked_again_but_not_for_ever() {
        assert!(matches!(made(0, || Ok(())), (Ok(()), 1)));
        assert!(matches!(made(3, || Ok(())), (Ok(()), 4)));
        assert!(matches!(made(ATTEMPTS - 1, || Ok(())), (Ok(()), ATTEMPTS)));
        let (result, made) = made(u32::MAX, || Ok(()));
        assert_eq!((result.unwrap_err().raw_os_error(), made), (Some(libc::EAGAIN), ATTEMPTS));
    }

    #[test]
    fn other_errors_are_reported_at_once() {
        for errno in [libc::EINTR, libc::EFAULT] {
            let mut made = 0;
            let result = retried(|| {
                made += 1;
                Err::<(), _>(Error::from_raw_os_error(errno))
            });
            assert_eq!((result.unwrap_err().raw_os_error(), made), (Some(errno), 1));
        }
    }
}
