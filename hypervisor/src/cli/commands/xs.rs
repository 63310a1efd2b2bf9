//! `paravane xs`: the store of a running Paravane.

use super::args::{XsArgs, XsCommand};
use crate::cli::printing::escape::escape_value;
use crate::cli::printing::stdout;
use crate::cli::status::{Failure, Status};
use crate::cli::toolstack::sockets;
use backends::xenstore::client::{Client, ClientError};
use pv_abi::Errno;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

/// Does what is asked for, as the host domain.
pub fn xs(args: &XsArgs) -> Result<Status, Failure> {
    let socket = args.socket.clone().map_or_else(sockets::only_one, Ok)?;
    let mut store = Client::connect(&socket).map_err(Failure::new)?;
    match carry_out(&mut store, &args.command) {
        // What was watched has come to its end.
        Err(Stop::Store(ClientError::Ended)) if matches!(args.command, XsCommand::Watch { .. }) => {
            Ok(Status::Fine)
        }
        Err(Stop::Store(error)) => Err(Failure::new(error)),
        Err(Stop::Output(failure)) => Err(failure),
        Err(Stop::NobodyReads) | Ok(()) => Ok(Status::Fine),
    }
}

/// Why it went no further.
enum Stop {
    Store(ClientError),
    Output(Failure),
    NobodyReads,
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Store(error)
    }
}

fn carry_out(store: &mut Client, command: &XsCommand) -> Result<(), Stop> {
    match command {
        XsCommand::Ls { path, recursive } => list(store, path, *recursive),
        XsCommand::Read { path } => {
            let value = store.read(path)?;
            // A guest may have written it: on a terminal it does nothing but stand there.
            print(&if io::stdout().is_terminal() { escape_value(&value).into_bytes() } else { value })
        }
        XsCommand::Write { path, value } => Ok(store.write(path, value.as_bytes())?),
        XsCommand::Rm { path } => Ok(store.rm(path)?),
        XsCommand::Watch { path } => {
            store.watch(path)?;
            loop {
                let changed = store.next_event()?;
                let text = match if_there(store.read(&changed))? {
                    Some(value) => format!("{changed} = {}", quoted(&value)),
                    None => format!("{changed} is not there"),
                };
                print(text.as_bytes())?;
            }
        }
    }
}

/// Prints the children of a node with their values, each below its parent and further in. What is removed meanwhile is
/// left out.
fn list(store: &mut Client, path: &str, recursive: bool) -> Result<(), Stop> {
    let under = |path: &str, name: &str| format!("{}/{name}", path.trim_end_matches('/'));
    let mut ahead: Vec<_> =
        store.ls(path)?.into_iter().rev().map(|name| (0, under(path, &name), name)).collect();
    while let Some((depth, path, name)) = ahead.pop() {
        let Some(value) = if_there(store.read(&path))? else { continue };
        let indent = " ".repeat(depth);
        print(format!("{indent}{name} = {}", quoted(&value)).as_bytes())?;
        if recursive && let Some(names) = if_there(store.ls(&path))? {
            ahead.extend(
                names.into_iter().rev().map(|name| (depth.saturating_add(1), under(&path, &name), name)),
            );
        }
    }
    Ok(())
}

/// What was found; nothing where there is no such node (any more). A special name is none.
fn if_there<T>(found: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(ClientError::Refused { errno: Errno::ENOENT | Errno::EINVAL, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A value in quotes, in one line, that does nothing to a terminal.
fn quoted(value: &[u8]) -> String {
    let mut plain = Vec::with_capacity(value.len());
    for &byte in value {
        if matches!(byte, b'"' | b'\\') {
            plain.push(b'\\');
        }
        plain.push(byte);
    }
    format!("\"{}\"", escape_value(&plain))
}

/// Prints a line at once: others may be waiting for it.
fn print(line: &[u8]) -> Result<(), Stop> {
    match stdout::print([line, b"\n"].concat()) {
        Ok(ControlFlow::Continue(())) => Ok(()),
        Ok(ControlFlow::Break(())) => Err(Stop::NobodyReads),
        Err(failure) => Err(Stop::Output(failure)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_line_in_quotes_whatever_it_is() {
        assert_eq!(quoted("5 M\u{fc}nzen, 'x'".as_bytes()), "\"5 M\u{fc}nzen, 'x'\"");
        assert_eq!(quoted(b"\x1b[2J\"\n\\"), "\"\\x1b[2J\\\"\\x0a\\\\\"");
        assert_eq!(quoted(b"\xff"), "\"\\xff\"");
    }
}
