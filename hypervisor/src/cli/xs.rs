//! `paravane xs`: the store of a running Paravane.

use super::args::{XsArgs, XsCommand};
use super::sockets;
use super::status::{Failure, Status};
use backends::xenstore::client::Client;
use std::io::{self, Write};

/// Does what is asked for, as the host domain.
pub fn xs(args: &XsArgs) -> Result<Status, Failure> {
    let socket = args.socket.clone().map_or_else(sockets::only_one, Ok)?;
    let mut store = Client::connect(&socket).map_err(Failure::new)?;
    match &args.command {
        XsCommand::Ls { path } => {
            let names = store.ls(path).map_err(Failure::new)?;
            names.iter().try_for_each(|name| print(name.as_bytes()))
        }
        XsCommand::Read { path } => store.read(path).map_err(Failure::new).and_then(|value| print(&value)),
        XsCommand::Write { path, value } => store.write(path, value.as_bytes()).map_err(Failure::new),
        XsCommand::Rm { path } => store.rm(path).map_err(Failure::new),
        XsCommand::Watch { path } => {
            store.watch(path).map_err(Failure::new)?;
            loop {
                let path = store.next_event().map_err(Failure::new)?;
                print(path.as_bytes())?;
            }
        }
    }?;
    Ok(Status::Fine)
}

/// Prints a line at once: others may be waiting for it.
fn print(line: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    match written {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|error| Failure::about("stdout", error)),
    }
}
