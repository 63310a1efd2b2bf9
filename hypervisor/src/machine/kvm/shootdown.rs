//! What other threads do to a pcpu: kick it, and make it forget translations.
//!
//! **Kick.** `immediate_exit` is set, then a signal is sent if the pcpu may be in KVM_RUN. The flag stays until
//! KVM_RUN has seen it, so none is lost; one that meets another exit comes back as an extra `Kicked`.
//!
//! **Shootdown**, on hosts where the pcpus flush for themselves. Who changed a table asks every pcpu to flush and
//! waits for those that are in a guest to be out of it ([`Presence`]). A pcpu that is out and was asked counts as
//! done: it loads its root before the next guest instruction. No lock is involved and leaving a guest needs none, so
//! an initiator may wait whatever it holds.
#![allow(unsafe_code)] // tgkill

use super::super::{Kick, MachineError};
use super::presence::Presence;
use super::run::Mapping;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use vmm_sys_util::signal::register_signal_handler;

/// Interrupts KVM_RUN. Not a real-time signal: those queue, and two kicks are no more than one.
/// One that does nothing to a process, unless it is asked for.
const KICK_SIGNAL: libc::c_int = libc::SIGURG;

/// The part of a pcpu that other threads use.
#[derive(Debug)]
pub struct Shared {
    mapping: Arc<Mapping>,
    presence: Presence,
    thread: AtomicI32,
}

impl Shared {
    /// The shared part of the pcpu whose `kvm_run` is `mapping`.
    pub fn new(mapping: Arc<Mapping>) -> Self {
        Self { mapping, presence: Presence::default(), thread: AtomicI32::new(0) }
    }

    /// The calling thread goes into the guest. True where it must load the root first.
    pub fn going_in(&self) -> bool {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), SeqCst);
        self.presence.enter()
    }

    /// It is out; `flushed` is false where a root should have been loaded and was not.
    pub fn is_out(&self, flushed: bool) {
        self.presence.leave(flushed);
    }

    /// Kicks count from now on.
    pub fn forget_kicks(&self) {
        self.mapping.immediate_exit().store(0, SeqCst);
    }

    fn wait_for_flush(&self) {
        if self.presence.may_be_stale() {
            // Once: what it interrupts looks whether it must flush before it goes in again, and a hail of signals
            // would only keep it from getting there.
            self.kick();
        }
        while self.presence.may_be_stale() {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
impl Shared {
    /// The shared part of a pcpu that is played by a thread of a test, which kicks do not harm.
    ///
    /// # Panics
    /// Where the host has no signal for it.
    pub fn without_vcpu() -> Self {
        install_kick_handler().unwrap();
        Self::new(Arc::new(Mapping::without_vcpu()))
    }

    /// Whether somebody wants it to come out.
    pub fn is_kicked(&self) -> bool {
        self.mapping.immediate_exit().load(SeqCst) != 0
    }
}

impl Kick for Shared {
    fn kick(&self) {
        self.presence.kick(self.mapping.immediate_exit(), || {
            let (process, thread) = (std::process::id(), self.thread.load(SeqCst));
            // SAFETY: sends a signal, whose handler does nothing, to a thread of this process; one that is gone,
            // or is another thread by now, takes no harm.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, KICK_SIGNAL) };
        });
    }
}

/// Makes every pcpu load its root before the next guest instruction, and waits until that is certain.
pub fn flush_all(pcpus: &[Arc<Shared>]) {
    for pcpu in pcpus {
        pcpu.presence.ask_to_flush();
    }
    for pcpu in pcpus {
        pcpu.wait_for_flush();
    }
}

/// Installs the handler of the kick's signal: it does nothing, so that the signal interrupts KVM_RUN and no more.
///
/// # Errors
/// The host's.
pub fn install_kick_handler() -> Result<(), MachineError> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(KICK_SIGNAL, nothing)
        .map_err(|error| MachineError::new("the kick's signal cannot be set up", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::Duration;

    /// XSA class "type change against TLB and cache": whoever changed a table goes on when nobody can use the old one.
    #[test]
    fn whoever_flushes_waits_for_a_pcpu_that_is_in_a_guest() {
        install_kick_handler().unwrap();
        let mapping = Arc::new(Mapping::without_vcpu());
        let pcpus = [Arc::new(Shared::new(Arc::clone(&mapping)))];
        let order = Mutex::new(Vec::new());
        assert!(!pcpus[0].going_in());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                flush_all(&pcpus);
                order.lock().unwrap().push("flushed");
            });
            while mapping.immediate_exit().load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            // Kicked, and slow to leave: long enough for whoever does not wait.
            std::thread::sleep(Duration::from_millis(100));
            order.lock().unwrap().push("out");
            pcpus[0].is_out(false);
        });
        assert_eq!(order.into_inner().unwrap(), ["out", "flushed"]);
        assert!(pcpus[0].going_in(), "its root is loaded before the next guest instruction");
    }
}
