//! Whether somebody serves a socket, without waiting for anybody, and the end of those that nobody serves.
//!
//! A socket's file outlives its process. That process is proven dead by one answer only: ECONNREFUSED. A full backlog
//! (the process may be stopped) proves that it lives, and what this process cannot do (no descriptor is left, say)
//! proves nothing. A file that is being made must not look dead: it gets its name once it [listens](super::socket).

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long a client waits for a place in a server's backlog.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
const INTERVAL: Duration = Duration::from_millis(10);

/// Whether it is proven that nobody serves the socket at `path`.
pub fn is_dead(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    is_socket && matches!(try_to_connect(path), Err(Errno::CONNREFUSED))
}

/// Removes the socket at `path` if nobody serves it; true where it did.
///
/// Whoever removes has the lock of the directory, so that what was proven dead is what is removed: nobody else removes a
/// dead one, and no other gets its name before. Where somebody else has the lock, nothing is done.
///
/// # Errors
/// The host's.
pub fn remove_dead(path: &Path) -> io::Result<bool> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        done => done?,
    }
    if !is_dead(path) {
        return Ok(false);
    }
    std::fs::remove_file(path)?;
    Ok(true)
}

/// Connects to a server that has a place for another client soon.
pub(super) fn connect_patiently(path: &Path) -> io::Result<OwnedFd> {
    let start = Instant::now();
    loop {
        match try_to_connect(path) {
            Err(Errno::AGAIN) if start.elapsed() < PATIENCE => thread::sleep(INTERVAL),
            Err(Errno::AGAIN) => {
                let message = "whoever serves it does not answer; it may be stopped";
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            done => return Ok(done?),
        }
    }
}

/// Connects, without waiting: EAGAIN where the backlog is full.
fn try_to_connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
