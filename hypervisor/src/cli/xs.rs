//! `paravane xs`: the store of a running Paravane.

use super::args::{XsArgs, XsCommand};
use super::escape::escape_value;
use super::files::reason;
use super::sockets;
use super::status::{Failure, Status};
use backends::xenstore::client::{Client, ClientError};
use std::io::{self, IsTerminal, Write};

/// Does what is asked for, as the host domain.
pub fn xs(args: &XsArgs) -> Result<Status, Failure> {
    let socket = args.socket.clone().map_or_else(sockets::only_one, Ok)?;
    let mut store = Client::connect(&socket).map_err(Failure::new)?;
    match carry_out(&mut store, &args.command) {
        // Whoever reads it has seen enough.
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Status::Fine),
        Err(Stop::Output(error)) => Err(Failure::about("stdout", reason(&error))),
        Err(Stop::Store(error)) => Err(Failure::new(error)),
        Ok(()) => Ok(Status::Fine),
    }
}

/// Why it went no further.
enum Stop {
    Store(ClientError),
    Output(io::Error),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Store(error)
    }
}

fn carry_out(store: &mut Client, command: &XsCommand) -> Result<(), Stop> {
    match command {
        XsCommand::Ls { path } => store.ls(path)?.iter().try_for_each(|name| print(name.as_bytes())),
        XsCommand::Read { path } => print(&store.read(path)?),
        XsCommand::Write { path, value } => Ok(store.write(path, value.as_bytes())?),
        XsCommand::Rm { path } => Ok(store.rm(path)?),
        XsCommand::Watch { path } => {
            store.watch(path)?;
            loop {
                print(store.next_event()?.as_bytes())?;
            }
        }
    }
}

/// Prints a line at once: others may be waiting for it.
fn print(line: &[u8]) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    // A guest may have written it: on a terminal it does nothing but stand there.
    let escaped = out.is_terminal().then(|| escape_value(line));
    let line = escaped.as_deref().map_or(line, str::as_bytes);
    let written = out.write_all(line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    written.map_err(Stop::Output)
}
