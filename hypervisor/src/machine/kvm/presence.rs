//! Whether a pcpu is in a guest, and whether it must forget translations before it goes on there.
//!
//! The pcpu says that it is in *before* it looks whether it must flush; whoever asks for a flush asks *before* looking
//! whether the pcpu is in. All of it is sequentially consistent, so one of the two sees the other. A kick follows the
//! same rule: its flag is set before anybody looks whether a signal is needed.
//!
//! Guarded by `tests/concurrency`, which tries every interleaving.

use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};

/// One pcpu's, seen by all threads. It starts outside, with nothing to forget.
#[derive(Debug, Default)]
pub struct Presence {
    in_guest: AtomicBool,
    flush_pending: AtomicBool,
}

impl Presence {
    /// The pcpu goes into a guest. True where it must forget its translations first.
    pub fn enter(&self) -> bool {
        self.in_guest.store(true, SeqCst);
        self.flush_pending.swap(false, SeqCst)
    }

    /// It is out; `flushed` is false where it should have forgotten its translations and did not.
    pub fn leave(&self, flushed: bool) {
        if !flushed {
            self.flush_pending.store(true, SeqCst);
        }
        self.in_guest.store(false, SeqCst);
    }

    /// The pcpu must forget its translations.
    pub fn ask_to_flush(&self) {
        self.flush_pending.store(true, SeqCst);
    }

    /// Whether it may still be in a guest with translations from before it was asked.
    pub fn may_be_stale(&self) -> bool {
        self.in_guest.load(SeqCst) && self.flush_pending.load(SeqCst)
    }

    /// Sees to it that the pcpu comes out, or does not get in: `immediate_exit` is looked at on the way in, `signal`
    /// interrupts it where it may be past that.
    pub fn kick(&self, immediate_exit: &AtomicU8, signal: impl FnOnce()) {
        immediate_exit.store(1, SeqCst);
        if self.in_guest.load(SeqCst) {
            signal();
        }
    }
}
