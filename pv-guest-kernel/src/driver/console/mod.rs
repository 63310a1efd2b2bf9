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
    Ring {
        ring: Ring,
        /// Somebody looks at a terminal, which wants a carriage return before each line feed. Xen's
        /// emergency console adds it by itself.
        terminal: bool,
    },
    Emergency,
}

static CONSOLE: Local<Console> = Local::new(Console::Emergency);

/// Takes the ring that `start_info` names, where there is one. A control domain stays with Xen's emergency console.
pub fn init() {
    let (frame, port) = start_info::with(|info| (info.console_mfn, info.console_evtchn));
    if start_info::is_control_domain() || frame.0 == 0 {
        return;
    }
    if let Some(ring) = Ring::new(frame, port) {
        let terminal = !start_info::mentions("stdin=pipe") && !start_info::mentions("exec=");
        CONSOLE.with(|console| *console = Console::Ring { ring, terminal });
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self {
            Self::Ring { ring, terminal: false } => ring.write(text.as_bytes()),
            Self::Ring { ring, terminal: true } => {
                text.split_inclusive('\n').for_each(|line| match line.strip_suffix('\n') {
                    Some(line) => {
                        ring.write(line.as_bytes());
                        ring.write(b"\r\n");
                    }
                    None => ring.write(line.as_bytes()),
                })
            }
            Self::Emergency => emergency::write(text.as_bytes()),
        }
        Ok(())
    }
}

impl Console {
    /// Writes a whole message; the back-end is told once.
    fn message(&mut self, arguments: fmt::Arguments) {
        // Writing never fails.
        let _ = self.write_fmt(arguments);
        if let Self::Ring { ring, .. } = self {
            ring.notify();
        }
    }
}

/// Waits until the other side has taken all output. Does nothing in the middle of a message.
pub fn drain() {
    let _ = CONSOLE.try_with(|console| match console {
        Console::Ring { ring, .. } => ring.drain(),
        Console::Emergency => {}
    });
}

/// What `print!` calls. Panics while the console is in use.
pub fn print(arguments: fmt::Arguments) {
    CONSOLE.with(|console| console.message(arguments));
}

/// Prints even if the console is in use: the end of a panic's message matters more than its middle.
pub fn print_in_emergency(arguments: fmt::Arguments) {
    if CONSOLE.try_with(|console| console.message(arguments)).is_none() {
        Console::Emergency.message(arguments);
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
