//! The user's terminal: raw while a guest has it, and as it was before after that, however the process ends.

use super::{LAST_MESSAGES, say, stderr};
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

/// What the terminal was like. Set once; read by whoever ends the process.
static ORIGINAL: OnceLock<Termios> = OnceLock::new();

/// Whether stdin is a terminal.
pub fn is_terminal() -> bool {
    isatty(io::stdin())
}

/// Restores the terminal, if it was changed. Safe at any time, on any thread.
pub fn restore() {
    if let Some(original) = ORIGINAL.get() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, original);
    }
}

/// Keeps the terminal raw while it lives.
pub struct Raw(());

impl Raw {
    /// Gives every key to the guest, Ctrl-C included. Newlines are still translated on output: the hypervisor's
    /// messages share the screen.
    pub fn enter() -> io::Result<Self> {
        let original = tcgetattr(io::stdin())?;
        let mut raw = ORIGINAL.get_or_init(|| original).clone();
        raw.make_raw();
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// The last signal that came.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// What wakes the thread that ends the process.
static SIGNALLED: OnceLock<EventFd> = OnceLock::new();

/// Only stores and writes: all that a signal handler may do.
extern "C" fn handle(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SIGNAL.store(signal, Ordering::SeqCst);
    if let Some(event) = SIGNALLED.get() {
        let _ = event.write(1);
    }
}

/// From now on INT, TERM, HUP and QUIT end the process with 128 + their number, and the terminal restored. Nothing
/// else needs an orderly end: the machine is this process's memory and file descriptors.
///
/// `before` is done first.
pub fn end_on_signals(before: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let event = EventFd::new(0)?;
    let waiting = event.try_clone()?;
    // A second call finds the first one's in place, which is as good.
    let _ = SIGNALLED.set(event);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        register_signal_handler(signal, handle)?;
    }
    let end = move || {
        while waiting.read().is_err() {}
        restore();
        before();
        let signal = SIGNAL.load(Ordering::SeqCst);
        say(&format!("ended by signal {signal}"));
        stderr::settle(LAST_MESSAGES);
        std::process::exit(signal.saturating_add(128));
    };
    std::thread::Builder::new().name("signals".into()).spawn(end).map(drop)
}
