//! The store on a socket, and its client.

use super::*;
use crate::xenstore::client::{Client, ClientError};
use crate::xenstore::request::message;
use pv_abi::Errno;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

struct Served {
    store: StoreHandle,
    path: PathBuf,
    /// Before its directory goes.
    server: Option<SocketServer>,
    _directory: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, path) = (StoreHandle::default(), directory.path().join("socket"));
        let server = Some(SocketServer::start(&path, store.clone()).unwrap());
        Self { store, path, server, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }
}

#[test]
fn a_client_lists_reads_writes_and_removes() {
    let served = Served::new();
    let mut client = served.client();
    client.write("/a/b", b"value\0\xff").unwrap();
    assert_eq!(served.store.read("/a/b").unwrap(), b"value\0\xff");
    served.store.write("/a/c", "x").unwrap();
    assert_eq!(client.ls("/a").unwrap(), ["b", "c"]);
    assert_eq!(client.ls("/a/b").unwrap(), [""; 0]);
    assert_eq!(client.read("/a/c").unwrap(), b"x");
    client.rm("/a").unwrap();
    let error = client.read("/a/c").unwrap_err().to_string();
    assert_eq!(error, "can't read /a/c in xenstore: no such entry (ENOENT)");
    assert!(matches!(client.write("/a", &[0; 5000]), Err(ClientError::Refused { .. })));
    assert!(matches!(client.read("relative"), Err(ClientError::Refused { .. })));
}

#[test]
fn a_client_lists_what_no_message_holds() {
    let served = Served::new();
    let names: Vec<String> = (0..2000).map(|number| format!("name-{number:05}")).collect();
    names.iter().for_each(|name| served.store.mkdir(&format!("/a/{name}")).unwrap());
    assert_eq!(served.client().ls("/a").unwrap(), names);
}

#[test]
fn a_client_watches() {
    let served = Served::new();
    let mut client = served.client();
    client.watch("/a").unwrap();
    assert_eq!(client.next_event().unwrap(), "/a");
    for round in 0..100 {
        served.store.write("/a/b", round.to_string()).unwrap();
        assert_eq!(client.next_event().unwrap(), "/a/b");
    }
    client.write("/a/c", b"").unwrap();
    client.write("/a/d", b"").unwrap();
    assert_eq!([client.next_event().unwrap(), client.next_event().unwrap()], ["/a/c", "/a/d"]);
}

/// One client sends an absurd length, one takes no replies, one leaves in the middle: the fourth does not notice.
#[test]
fn a_bad_client_is_alone_with_that() {
    let served = Served::new();
    let header = |len| Header { message_type: MessageType::READ, req_id: 1, tx_id: 0, len };
    let mut liar = UnixStream::connect(&served.path).unwrap();
    let mut bytes = message(header(0), b"");
    bytes[12..].copy_from_slice(&u32::MAX.to_le_bytes());
    liar.write_all(&bytes).unwrap();
    assert_eq!(liar.read(&mut [0; 16]).unwrap(), 0, "it is disconnected");

    served.store.write("/big", "v".repeat(4000)).unwrap();
    let mut deaf = UnixStream::connect(&served.path).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let request = message(header(0), b"/big\0");
    while deaf.write_all(&request).is_ok() {}

    UnixStream::connect(&served.path).unwrap().write_all(&request[..7]).unwrap();
    let mut client = served.client();
    client.write("/a", b"x").unwrap();
    assert_eq!(client.read("/a").unwrap(), b"x");
}

/// More answers than the host keeps for it: the rest waits until it reads.
#[test]
fn a_client_that_reads_late_gets_every_answer() {
    const REQUESTS: usize = 300;
    let served = Served::new();
    let value = "v".repeat(4000);
    served.store.write("/big", &value).unwrap();
    let header = Header { message_type: MessageType::READ, req_id: 1, tx_id: 0, len: 0 };
    let mut late = UnixStream::connect(&served.path).unwrap();
    late.write_all(&message(header, b"/big\0").repeat(REQUESTS)).unwrap();
    // By then the server waits for it.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let mut answer = [0; 4016];
    for number in 0..REQUESTS {
        late.read_exact(&mut answer).unwrap_or_else(|error| panic!("answer {number}: {error}"));
        assert_eq!(&answer[16..], value.as_bytes());
    }
}

#[test]
fn the_file_is_its_owners_alone_and_goes_with_the_server() {
    let mut served = Served::new();
    assert_eq!(std::fs::metadata(&served.path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = SocketServer::start(&served.path, StoreHandle::default()).map(drop).unwrap_err().to_string();
    assert!(second.starts_with(&format!("can't serve xenstore at {}: ", served.path.display())), "{second}");
    let mut client = served.client();
    served.server = None;
    assert!(!served.path.exists());
    assert!(client.read("/").is_err(), "its clients are disconnected");
    let error = Client::connect(&served.path).unwrap_err().to_string();
    assert!(error.starts_with("can't reach xenstore at "), "{error}");
}

#[test]
fn a_socket_that_nobody_serves_is_replaced_and_a_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = SocketServer::start(&path, StoreHandle::default()).unwrap();
    Client::connect(&path).unwrap().write("/a", b"x").unwrap();
    drop(server);
    std::fs::write(&path, "precious").unwrap();
    assert!(SocketServer::start(&path, StoreHandle::default()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

/// It takes no clients, and its backlog is full: nobody waits for it for ever, and its file stays.
#[test]
fn one_that_is_stopped_is_no_dead_one_and_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    let socket = || {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap()
    };
    let stopped = socket();
    rustix::net::bind(&stopped, &address).unwrap();
    assert!(is_dead(&path), "it does not listen");
    rustix::net::listen(&stopped, 1).unwrap();
    let error = Client::connect(&path).unwrap().read("/a").unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
    let clients = std::iter::repeat_with(socket);
    let waiting: Vec<_> =
        clients.take_while(|client| rustix::net::connect(client, &address).is_ok()).collect();
    assert!(!is_dead(&path) && !remove_dead(&path).unwrap() && path.exists());
    let second = SocketServer::start(&path, StoreHandle::default()).map(drop).unwrap_err();
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
    let error = Client::connect(&path).unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
    drop((stopped, waiting));
    assert!(remove_dead(&path).unwrap() && !path.exists());
}

/// Whoever looks for dead ones finds none in one that starts, nor in the place of one that has just ended.
#[test]
fn one_that_starts_is_never_removed() {
    const ROUNDS: u32 = 5000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let _ = remove_dead(&path);
            }
        });
        for round in 0..ROUNDS {
            let server = SocketServer::start(&path, StoreHandle::default()).unwrap();
            let there = path.exists() && Client::connect(&path).is_ok();
            drop(server);
            done.store(round == ROUNDS - 1 || !there, std::sync::atomic::Ordering::SeqCst);
            assert!(there, "removed in round {round}");
        }
    });
}

/// A file that stands while nobody serves it is dead to others, who would remove the next one's that has got its name
/// meanwhile.
#[test]
fn it_is_served_as_long_as_its_file_stands() {
    let mut served = Served::new();
    served.client().write("/a", b"b").unwrap();
    let client = served.client();
    let (server, path) = (served.server.take(), served.path.clone());
    let (ending, gone) = served.store.with(|_| {
        // Its client's thread needs the store to end, and the server waits for that.
        let ending = std::thread::spawn(move || drop(server));
        let gone = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            !path.exists()
        });
        (ending, gone)
    });
    ending.join().unwrap();
    drop(client);
    assert!(gone, "nobody is let in, and the file stands");
}

#[test]
fn a_server_removes_its_own_file_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let first = SocketServer::start(&path, StoreHandle::default()).unwrap();
    std::fs::rename(&path, directory.path().join("elsewhere")).unwrap();
    let second = SocketServer::start(&path, StoreHandle::default()).unwrap();
    drop(first);
    assert!(Client::connect(&path).is_ok());
    drop(second);
    assert!(!path.exists());
}

#[test]
fn nothing_but_a_dead_socket_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    std::fs::write(&path, "precious").unwrap();
    assert!(!remove_dead(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let busy = std::fs::File::open(&directory).unwrap();
    rustix::fs::flock(&busy, rustix::fs::FlockOperation::LockShared).unwrap();
    assert!(!remove_dead(&path).unwrap(), "somebody else looks");
    drop(busy);
    assert!(remove_dead(&path).unwrap());
}

#[test]
fn this_process_has_the_store_at_hand() {
    let store = StoreHandle::default();
    let bell = Arc::new(crate::bell::Bell::default());
    let watcher = store.watcher(Arc::clone(&bell));
    watcher.watch("/a", "token").unwrap();
    watcher.watch("@introduceDomain", "in").unwrap();
    let next = || watcher.next_event().map(|event| event.path.to_string());
    assert_eq!([next(), next(), next()], [Some("/a".into()), Some("@introduceDomain".into()), None]);
    bell.listen();
    let done = store.transaction(|it| {
        it.write("/a/b", "x")?;
        it.write("/a/c", "x")?;
        Ok::<_, Errno>(7)
    });
    assert_eq!(done, Ok(7));
    bell.listen();
    assert_eq!([next(), next(), next()], [Some("/a/b".into()), Some("/a/c".into()), None]);
    let failed = store.transaction(|it| it.write("/a/d", "x").and(it.write("a", "x")));
    assert_eq!((failed, next()), (Err(Errno::EINVAL), None));
    assert_eq!(store.directory("/a").unwrap(), ["b", "c"], "nothing of what failed");
    store.introduce(ONE).unwrap();
    assert_eq!(next().as_deref(), Some("@introduceDomain"));
    watcher.unwatch("/a", "token").unwrap();
    store.remove("/a").unwrap();
    assert_eq!(next(), None);
    let error = store.read("/a").unwrap_err().to_string();
    assert_eq!(error, "can't read /a in xenstore: no such entry (ENOENT)");
}
