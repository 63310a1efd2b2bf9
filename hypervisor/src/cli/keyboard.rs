//! What the user types, on its way to the guest.

use super::command_line::Commands;
use backends::console::Input;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ctrl-]: leaves.
const LEAVE: u8 = 0x1d;
/// Ctrl-D: what the shell gets at the end of a stdin that is no terminal.
const END: u8 = 0x04;

/// Whoever reads stdin.
pub struct Keyboard {
    input: Arc<Input>,
    /// A pipe has come to its end.
    ended: Arc<AtomicBool>,
}

impl Keyboard {
    /// Starts to read stdin, if it is to be read at all. `leave` is called when the user wants to leave.
    ///
    /// The thread sleeps in a read that nothing interrupts, and ends with the process.
    pub fn start(
        commands: Commands<'_>,
        input: Arc<Input>,
        leave: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let this = Self { input: Arc::clone(&input), ended: Arc::default() };
        let ended = Arc::clone(&this.ended);
        let read: Box<dyn FnOnce() + Send> = match commands {
            Commands::Given(_) => return Ok(this),
            Commands::Typed => Box::new(move || {
                type_keys(io::stdin(), &input);
                leave();
            }),
            Commands::Piped => Box::new(move || {
                pipe(io::stdin(), &input);
                ended.store(true, Ordering::SeqCst);
            }),
        };
        std::thread::Builder::new().name("keyboard".into()).spawn(read)?;
        Ok(this)
    }

    /// A new guest has not heard that stdin is at its end.
    pub fn guest_restarts(&self) {
        if self.ended.load(Ordering::SeqCst) {
            self.input.push(&[END]);
        }
    }
}

/// Hands keys over up to Ctrl-], or until the terminal is gone.
fn type_keys(mut keyboard: impl Read, input: &Input) {
    let mut keys = [0; 256];
    while let Some(keys) = read(&mut keyboard, &mut keys) {
        let leave = keys.iter().position(|&key| key == LEAVE);
        input.push(&keys[..leave.unwrap_or(keys.len())]);
        if leave.is_some() {
            return;
        }
    }
}

/// Hands everything over, and says where it ends.
fn pipe(mut stdin: impl Read, input: &Input) {
    let mut bytes = [0; 4096];
    while let Some(bytes) = read(&mut stdin, &mut bytes) {
        input.push(bytes);
    }
    input.push(&[END]);
}

/// The next bytes; none at the end, and where reading fails.
fn read<'a>(from: &mut impl Read, into: &'a mut [u8]) -> Option<&'a [u8]> {
    loop {
        match from.read(into) {
            Ok(0) => return None,
            Ok(length) => return into.get(..length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(input: &Input) -> Vec<u8> {
        let mut bytes = [0; 64];
        let length = input.take(&mut bytes);
        bytes[..length].to_vec()
    }

    #[test]
    fn keys_go_over_up_to_the_one_that_leaves() {
        let input = Input::default();
        type_keys(&b"abc\x1ddef"[..], &input);
        assert_eq!(taken(&input), b"abc");
        type_keys(&b"\x03\x04"[..], &input);
        assert_eq!(taken(&input), b"\x03\x04", "the guest's affair");
    }

    #[test]
    fn the_end_of_a_pipe_is_told() {
        let input = Input::default();
        pipe(&b"help\n"[..], &input);
        assert_eq!(taken(&input), b"help\n\x04");
        pipe(&b""[..], &input);
        assert_eq!(taken(&input), b"\x04");
    }
}
