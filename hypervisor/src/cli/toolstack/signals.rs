//! Signals: each whose default is to end the process leads to the end that every run has, which closes disks, restores the
//! terminal and says why.
//!
//! INT and TERM first ask the guests to shut down, and wait; a second signal does not. A third ends the process as it is:
//! something that the host does not finish must not keep it for ever.

use super::exit::Exit;
use crate::cli::LAST_MESSAGES;
use crate::cli::input::terminal;
use crate::cli::printing::stderr;
use crate::cli::say;
use crate::cli::status::Failure;
use libc::c_int;
use signal_hook::consts::signal::{
    SIGABRT, SIGALRM, SIGBUS, SIGCONT, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGSYS,
    SIGTERM, SIGTRAP, SIGTSTP, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use vmm_sys_util::signal::register_signal_handler;

/// Those that have a name and end a process.
const ENDING: [c_int; 13] = [
    SIGINT,
    SIGQUIT,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
    SIGVTALRM,
    SIGPROF,
    SIGXCPU,
    SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    SIGHUP,
];
/// Defects of the process itself, which cannot go on. (SIGSEGV is left to Rust's runtime, which needs a stack of its own to
/// tell of one that has overflowed, and ends by SIGABRT then.)
const FATAL: [c_int; 6] = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGTRAP];

/// After what time it is said that the end takes long.
const LONG: Duration = Duration::from_secs(10);

/// From now on a file that may not grow any more is an error of the write, and not the end of the process.
pub fn catch_file_size_limit() -> Result<(), Failure> {
    let caught = signal_hook::flag::register(SIGXFSZ, Arc::default());
    caught.map(drop).map_err(|error| Failure::about("SIGXFSZ cannot be caught", error))
}

/// From now on signals end the run by `exit`. Guests get `grace` to shut down by themselves. `finish` is done where the
/// process ends as it is.
pub fn start(exit: Arc<Exit>, grace: Duration, finish: impl FnOnce() + Send + 'static) -> io::Result<()> {
    for signal in FATAL {
        register_signal_handler(signal, restore_and_die)?;
    }
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    let ending = ENDING.into_iter().chain(real_time).filter(|&signal| signal != SIGHUP || !ignores_hangup());
    let signals = Signals::new(ending.chain([SIGCONT, SIGTSTP]))?;
    let (sender, ends) = channel();
    thread::Builder::new().name("end".into()).spawn(move || end(&ends, &exit, grace, finish))?;
    let hear = move || {
        let mut signals = signals;
        for signal in signals.forever() {
            match signal {
                SIGCONT => terminal::resume(),
                SIGTSTP => {
                    terminal::restore();
                    // The process stops here.
                    let _ = emulate_default_handler(SIGTSTP);
                }
                _ => drop(sender.send(signal)),
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(hear).map(drop)
}

/// A signal as people know it.
pub fn name(signal: c_int) -> String {
    let known = signal_name(signal).map(str::to_owned);
    known.unwrap_or_else(|| format!("signal {signal}"))
}

/// Whether whoever started this process wants it to outlive its terminal (`nohup`).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (SIGHUP - 1) != 0)
}

/// Restores the terminal, which is safe in a handler, and lets the signal do what it does.
extern "C" fn restore_and_die(signal: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    terminal::restore();
    let _ = emulate_default_handler(signal);
}

/// Waits for signals, and ends the run.
fn end(signals: &Receiver<c_int>, exit: &Exit, grace: Duration, finish: impl FnOnce()) {
    let Ok(first) = signals.recv() else { return };
    if matches!(first, SIGINT | SIGTERM) && !grace.is_zero() && exit.ask(first) {
        let seconds = grace.as_secs_f64();
        say(&format!(
            "{}: asked to shut down, and ended in {seconds} s otherwise, or at once by another signal",
            name(first)
        ));
        match signals.recv_timeout(grace) {
            Ok(second) => say(&format!("{}: ended at once", name(second))),
            Err(RecvTimeoutError::Timeout) => say(&format!("not shut down within {seconds} s: ended")),
            Err(RecvTimeoutError::Disconnected) => {}
        }
    }
    exit.leave_by(first);
    // The main thread closes everything, and ends the process.
    let last = signals.recv_timeout(LONG).or_else(|_| {
        say("the end takes long; another signal ends the process without closing what is open");
        signals.recv()
    });
    terminal::restore();
    finish();
    say(&format!("ended by {} as it is", last.map_or_else(|_| name(first), name)));
    stderr::settle(LAST_MESSAGES);
    std::process::exit(first.saturating_add(128));
}
