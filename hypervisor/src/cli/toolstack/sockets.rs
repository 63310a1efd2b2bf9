//! Where a running Paravane is found by people and tools: a directory of sockets, one for each process.
//!
//! It is `paravane` below `$XDG_RUNTIME_DIR`, or else `/tmp/paravane-UID`; nobody but its owner may enter it.

use crate::cli::status::Failure;
use backends::xenstore::{SocketServer, StoreHandle, is_dead, remove_dead};
use rustix::fs::{Mode, mkdir};
use rustix::process::getuid;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const ENDING: &str = "xenstore";

/// Serves the store of this process there.
pub fn serve(store: StoreHandle) -> Result<SocketServer, Failure> {
    let directory = directory();
    make(&directory).map_err(|error| Failure::about(directory.display(), error))?;
    sweep(&directory);
    let path = directory.join(format!("{}.{ENDING}", std::process::id()));
    SocketServer::start(&path, store).map_err(Failure::new)
}

/// The socket of the one process that is running.
pub fn only_one() -> Result<PathBuf, Failure> {
    let directory = directory();
    let mut running = sockets(&directory).filter(|path| !is_dead(path));
    let first = running.next().ok_or_else(|| {
        Failure::new(format_args!("no paravane of this user is running (none is in {})", directory.display()))
    })?;
    match running.next() {
        None => Ok(first),
        Some(second) => Err(Failure::new(format_args!(
            "several are running: say which with --socket {} or --socket {} or another of that directory",
            first.display(),
            second.display()
        ))),
    }
}

fn directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !runtime.is_empty() => Path::new(&runtime).join("paravane"),
        _ => PathBuf::from(format!("/tmp/paravane-{}", getuid().as_raw())),
    }
}

/// Makes the directory, or sees that it is this user's alone: in `/tmp` somebody else may have been faster.
fn make(directory: &Path) -> io::Result<()> {
    match mkdir(directory, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let found = fs::symlink_metadata(directory)?;
    let is_own = found.is_dir() && found.uid() == getuid().as_raw();
    if !is_own || found.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("it must be a directory that only you can enter"));
    }
    Ok(())
}

fn sockets(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
}

/// Removes what processes have left behind that were killed.
fn sweep(directory: &Path) {
    for path in sockets(directory) {
        // Another process may be sweeping, too.
        let _ = remove_dead(&path);
    }
}
