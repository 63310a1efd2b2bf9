//! `paravane xs`: the store of a running Paravane.

use super::args::{XsArgs, XsCommand};
use super::escape::escape_value;
use super::sockets;
use super::status::{Failure, Status};
use super::stdout;
use backends::xenstore::client::{Client, ClientError};
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

/// Does what is asked for, as the host domain.
pub fn xs(args: &XsArgs) -> Result<Status, Failure> {
    let socket = args.socket.clone().map_or_else(sockets::only_one, Ok)?;
    let mut store = Client::connect(&socket).map_err(Failure::new)?;
    match carry_out(&mut store, &args.command) {
        Err(Stop::Failed(failure)) => Err(failure),
        Err(Stop::NobodyReads) | Ok(()) => Ok(Status::Fine),
    }
}

/// Why it went no further.
enum Stop {
    Failed(Failure),
    NobodyReads,
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Failed(Failure::new(error))
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

fn print(line: &[u8]) -> Result<(), Stop> {
    // A guest may have written it: on a terminal it does nothing but stand there.
    let escaped = io::stdout().is_terminal().then(|| escape_value(line));
    let line = escaped.as_deref().map_or(line, str::as_bytes);
    match stdout::print([line, b"\n"].concat()) {
        Ok(ControlFlow::Continue(())) => Ok(()),
        Ok(ControlFlow::Break(())) => Err(Stop::NobodyReads),
        Err(failure) => Err(Stop::Failed(failure)),
    }
}
