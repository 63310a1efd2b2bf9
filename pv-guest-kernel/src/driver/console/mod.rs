//! The console: the ring that the domain builder provides, or Xen's emergency console without one.
//!
//! Output is synchronous. Input arrives by event; bytes wait in a queue until the shell takes them.

mod emergency;
mod input;
#[allow(unsafe_code, reason = "memory shared with the back-end")]
mod ring;

use core::fmt::{self, Write};

use crate::start_info;
use crate::sync::Local;

pub use input::{interrupted, listen, next_byte};
use ring::Ring;

enum Console {
    Ring(Ring),
    Emergency,
}

static CONSOLE: Local<Console> = Local::new(Console::Emergency);

/// Chooses the console.
pub fn init() {
    let (frame, port) = start_info::with(|info| (info.console_mfn, info.console_evtchn));
    if start_info::is_control_domain() || frame.0 == 0 {
        return;
    }
    if let Some(ring) = Ring::new(frame, port) {
        CONSOLE.with(|console| *console = Console::Ring(ring));
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self {
            Self::Ring(ring) => ring.write(text.as_bytes()),
            Self::Emergency => emergency::write(text.as_bytes()),
        }
        Ok(())
    }
}

/// Waits until the other side has taken all output.
pub fn drain() {
    CONSOLE.with(|console| match console {
        Console::Ring(ring) => ring.drain(),
        Console::Emergency => {}
    });
}

/// Prints; see `print!`.
pub fn print(arguments: fmt::Arguments) {
    // The console's writer never fails.
    let _ = CONSOLE.with(|console| console.write_fmt(arguments));
}

/// Prints even if the console is in use: the end of a panic's message matters more than its middle.
pub fn print_in_emergency(arguments: fmt::Arguments) {
    if CONSOLE.try_with(|console| console.write_fmt(arguments)).is_none() {
        let _ = Console::Emergency.write_fmt(arguments);
    }
}

/// Prints formatted text.
macro_rules! print {
    ($($argument:tt)*) => { $crate::driver::console::print(format_args!($($argument)*)) };
}

/// Prints a line of formatted text.
macro_rules! println {
    () => { print!("\n") };
    ($format:literal $($argument:tt)*) => { print!("{}\n", format_args!($format $($argument)*)) };
}

/// `print!` for the panic path.
macro_rules! emergency {
    ($($argument:tt)*) => { $crate::driver::console::print_in_emergency(format_args!($($argument)*)) };
}
