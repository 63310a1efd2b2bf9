//! What a command prints. It is printed or it is an error; only a reader who has gone has seen enough.

use crate::cli::files::reason;
use crate::cli::status::Failure;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;

/// Writes bytes to stdout at once: others may be waiting for them. [`ControlFlow::Break`] says that nobody reads any
/// more.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<ControlFlow<()>, Failure> {
    let mut out = io::stdout().lock();
    printed(out.write_all(bytes.as_ref()).and_then(|()| out.flush()))
}

/// What became of something that was written to stdout.
pub fn printed(written: io::Result<()>) -> Result<ControlFlow<()>, Failure> {
    match written {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Failure::about("stdout", reason(&error))),
    }
}
