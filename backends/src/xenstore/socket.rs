//! The store on a Unix socket, for people and tools: the protocol of the rings, and every client is privileged. Who may
//! connect is the file's matter: it is its owner's alone.
//!
//! A thread per client, and one that lets them in. A client that does not read, or breaks the protocol, is its own
//! thread's trouble only.

use super::Caller;
use super::handle::{Connection, StoreHandle};
use super::liveness::remove_dead;
use super::wire::Wire;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, chmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const BACKLOG: i32 = 16;

/// A served socket. Dropping it removes the file and disconnects all clients.
pub struct SocketServer {
    path: PathBuf,
    /// Device and inode of its file.
    identity: (u64, u64),
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl SocketServer {
    /// Serves `store` at `path`. A socket that is there and that is proven to be served by nobody is
    /// replaced.
    ///
    /// # Errors
    /// What the host refuses, with the path.
    pub fn start(path: &Path, store: StoreHandle) -> io::Result<Self> {
        let (listener, identity) = open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("can't serve xenstore at {}: {error}", path.display()))
        })?;
        let signal = Arc::new(Signal::new()?);
        let heard = Arc::clone(&signal);
        let thread = std::thread::Builder::new().name("xenstore socket".into());
        let thread = thread.spawn(move || admit(&listener, &store, &heard))?;
        Ok(Self { path: path.to_owned(), identity, signal, thread: Some(thread) })
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        // While it is served still: whoever found it dead could remove the next one's, which gets the name meanwhile.
        // What stands there now may be another's.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
        self.signal.stop();
        // A client's thread that panicked has ended, and that is all that is wanted here.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Opens a socket that nobody but this user can connect to, at any time: it gets its name when its mode is set and it
/// takes clients, so that nobody finds it who would think it dead.
fn open(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let unnamed =
        tempfile::Builder::new().prefix(".").make_in(directory.unwrap_or(Path::new(".")), listen_at);
    let unnamed = unnamed?;
    let identity = identity(unnamed.path())?;
    let named = match unnamed.persist_noclobber(path) {
        Err(taken) if taken.error.kind() == ErrorKind::AlreadyExists && remove_dead(path)? => {
            taken.file.persist_noclobber(path)
        }
        done => done,
    };
    let listener = named.map_err(|error| match error.error.kind() {
        ErrorKind::AlreadyExists => ErrorKind::AddrInUse.into(),
        _ => error.error,
    })?;
    Ok((listener, identity))
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let listening = chmod(path, Mode::RUSR | Mode::WUSR).and_then(|()| listen(&socket, BACKLOG));
    listening.inspect_err(|_| {
        // It is this process's own, and of no use.
        let _ = std::fs::remove_file(path);
    })?;
    Ok(socket.into())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|data| (data.dev(), data.ino()))
}

/// How other threads reach one that waits for a file.
struct Signal {
    file: OwnedFd,
    stop: AtomicBool,
}

impl Signal {
    fn new() -> io::Result<Self> {
        let file = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { file, stop: AtomicBool::new(false) })
    }

    /// Wakes the thread, now or when it next waits.
    fn raise(&self) {
        // Refused only where it stands raised already, so often that it can count no further.
        let _ = rustix::io::write(&self.file, &1u64.to_ne_bytes());
    }

    fn lower(&self) {
        // Refused where it is not raised.
        let _ = rustix::io::read(&self.file, &mut [0; 8]);
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.raise();
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Waits until one of two files is ready.
fn wait(file: &impl AsFd, flags: PollFlags, signal: &Signal) -> io::Result<()> {
    let mut files = [PollFd::new(file, flags), PollFd::new(&signal.file, PollFlags::IN)];
    match poll(&mut files, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn admit(listener: &UnixListener, store: &StoreHandle, signal: &Signal) {
    let mut clients: Vec<(Arc<Signal>, JoinHandle<()>)> = Vec::new();
    while !signal.is_stopped() {
        clients.retain(|(_, thread)| !thread.is_finished());
        match listener.accept() {
            // A client that the host has no thread or file for is closed.
            Ok((stream, _)) => clients.extend(start(stream, store).ok()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if wait(listener, PollFlags::IN, signal).is_err() {
                    break;
                }
            }
            // Where files have run out: not again at once.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    clients.iter().for_each(|(client, _)| client.stop());
    for (_, thread) in clients {
        let _ = thread.join();
    }
}

fn start(stream: UnixStream, store: &StoreHandle) -> io::Result<(Arc<Signal>, JoinHandle<()>)> {
    stream.set_nonblocking(true)?;
    let signal = Arc::new(Signal::new()?);
    let (wake, serving) = (Arc::clone(&signal), Arc::clone(&signal));
    let connection = store.connect(Caller::Privileged, Arc::new(move || wake.raise()));
    let connection = connection.map_err(|error| io::Error::other(error.text()))?;
    let thread = std::thread::Builder::new().name("xenstore client".into());
    // A client that leaves or breaks the protocol is served no more, and there is nobody else to tell.
    let thread = thread.spawn(move || drop(serve(stream, &connection, &serving)))?;
    Ok((signal, thread))
}

fn serve(mut stream: UnixStream, connection: &Connection, signal: &Signal) -> io::Result<()> {
    let mut wire = Wire::new(connection.id());
    let mut buffer = [0; 4096];
    while !signal.is_stopped() {
        signal.lower();
        while send(&mut wire, &mut stream)? && connection.with(|store| wire.advance(store)) == Ok(true) {}
        let wanted = wire.wanted().min(buffer.len());
        if wanted == 0 {
            wait(&stream, PollFlags::OUT, signal)?;
            continue;
        }
        match stream.read(buffer.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => break,
            Ok(length) => {
                wire.receive(buffer.get(..length).unwrap_or_default()).map(drop).map_err(io::Error::other)?
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(&stream, PollFlags::IN, signal)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends what the client takes; true where that was everything.
fn send(wire: &mut Wire, stream: &mut UnixStream) -> io::Result<bool> {
    while !wire.output().is_empty() {
        match stream.write(wire.output()) {
            Ok(length) => wire.sent(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
