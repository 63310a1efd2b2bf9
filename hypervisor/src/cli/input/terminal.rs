//! The user's terminal: raw while a guest has it, and as it was before after that, however the process ends.

use rustix::fs::{FileType, fstat, major, minor};
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the terminal was like. Set once; read by whoever ends the process.
static ORIGINAL: OnceLock<Termios> = OnceLock::new();

/// What it is like while a guest has it.
static RAW: OnceLock<Termios> = OnceLock::new();
/// Whether a guest has it.
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// Whether stdin comes from nowhere: it is `/dev/null`.
pub fn is_nowhere() -> bool {
    fstat(io::stdin()).is_ok_and(|found| {
        let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
        is_device && (major(found.st_rdev), minor(found.st_rdev)) == (1, 3)
    })
}

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

/// The process goes on after it was stopped: whoever had the terminal meanwhile may have changed it. In the background it
/// is left alone.
pub fn resume() {
    let in_background = tcgetpgrp(io::stdin()).is_ok_and(|group| group != getpgrp());
    if let (Some(raw), true, false) = (RAW.get(), IS_RAW.load(Ordering::SeqCst), in_background) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, raw);
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
        tcsetattr(io::stdin(), OptionalActions::Now, RAW.get_or_init(|| raw))?;
        IS_RAW.store(true, Ordering::SeqCst);
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        IS_RAW.store(false, Ordering::SeqCst);
        restore();
    }
}
