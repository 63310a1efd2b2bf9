use super::*;
use crate::event_channel::alloc_unbound;
use crate::testing::{BASE, Guest, LIMIT, World, wait_until};
use backends::console::Input;
use backends::driver::LifecycleEnd;
use pv_abi::Mfn;
use pv_abi::io::console::{ConsoleInterface, IN_SIZE};
use pv_abi::page_table::Level;
use std::io::{self, Write};
use std::mem::offset_of;
use std::sync::mpsc;

/// A world with a guest that keeps its first page for its console, and has a port for it.
fn setup() -> (World, Guest, HostDomain, EventPort) {
    let world = World::new();
    let guest = world.guest();
    grant(&world, &guest, guest.pages[0]);
    let host = HostDomain::new(world.services.mmu.clone(), guest.domain.clone());
    let port = alloc_unbound(&guest.domain, DomId::HOST).unwrap();
    (world, guest, host, port)
}

/// The guest grants `mfn` to the host domain, for its console.
fn grant(world: &World, guest: &Guest, mfn: Mfn) {
    let (mmu, mut table) = (&world.services.mmu, guest.domain.grants().lock());
    table.grow(mmu, guest.domain.id(), 1).unwrap();
    table.permit(mmu, GrantRef::CONSOLE, DomId::HOST, mfn).unwrap();
}

#[test]
fn nothing_but_what_the_own_guest_grants_can_be_mapped() {
    let (_world, guest, host, _) = setup();
    let id = guest.domain.id();
    assert!(host.map_grant(id, GrantRef::CONSOLE, Access::ReadWrite).is_ok());
    assert!(host.map_grant(id, GrantRef::XENSTORE, Access::ReadWrite).is_err());
    assert!(host.map_grant(DomId(id.0 + 1), GrantRef::CONSOLE, Access::ReadWrite).is_err());
}

/// The host's writes would be a guest's way to write its own tables.
#[test]
fn a_page_table_cannot_be_mapped_as_a_console() {
    let (world, guest, host, _) = setup();
    grant(&world, &guest, guest.l1);
    let error = host.map_grant(guest.domain.id(), GrantRef::CONSOLE, Access::ReadWrite).unwrap_err();
    assert!(error.what.contains("GENERAL_ERROR"), "{error}");
}

#[test]
fn accesses_stay_within_the_page() {
    let (_world, guest, host, _) = setup();
    let page = host.map_grant(guest.domain.id(), GrantRef::CONSOLE, Access::ReadWrite).unwrap();
    page.store_u32(4092, 7).unwrap();
    assert_eq!(page.load_u32(4092), Ok(7));
    assert!(page.load_u32(4096).is_err() && page.write(4090, &[0; 7]).is_err());
    assert!(page.read(usize::MAX, &mut [0; 2]).is_err());
}

/// It may be a table, which is its guest's to read and nobody's to write.
#[test]
fn a_page_mapped_for_reading_is_not_written() {
    let (world, guest, host, _) = setup();
    grant(&world, &guest, guest.l1);
    let page = host.map_grant(guest.domain.id(), GrantRef::CONSOLE, Access::ReadOnly).unwrap();
    let entry = Level::L1.index(BASE) * 8;
    let found = world.machine.memory.load_u64(guest.l1, entry).unwrap();
    for outcome in
        [page.write(entry, &[0; 8]), page.store_u32(entry, 0), page.slice(Access::ReadWrite).map(|_| ())]
    {
        assert_eq!(outcome.unwrap_err().what, "the page is mapped for reading only");
    }
    assert_eq!(page.load_u32(entry), Ok(found as u32), "nothing has changed");
    assert!(page.slice(Access::ReadOnly).is_ok());
}

#[test]
fn a_port_can_be_bound_once_and_notified() {
    let (_world, guest, host, port) = setup();
    let id = guest.domain.id();
    let bell = Arc::new(Bell::default());
    let own = host.bind_port(id, port, bell.clone()).unwrap();
    bell.listen(); // a new connection is notified once
    assert!(host.bind_port(id, port, bell).is_err());
    guest.domain.shared().clear_pending(port);
    host.notify(own).unwrap();
    assert!(guest.domain.shared().is_pending(port));
    assert_eq!(host.notifications(), 1);
    assert!(host.notify(EventPort(0)).is_err() && host.notify(EventPort(own.0 + 1)).is_err());
    host.close_port(own);
    assert!(host.notify(own).is_err());
    assert_eq!(host.bind_port(id, port, Arc::default()), Ok(own), "a closed port is used again");
}

/// What a guest's console does, end to end: words out, keys in, and the last words when it is stopped.
#[test]
fn a_console_thread_serves_the_ring() {
    struct Sink(mpsc::Sender<Vec<u8>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (world, guest, host, port) = setup();
    let (memory, frame) = (world.services.mmu.memory(), guest.pages[0]);
    let (sender, words) = mpsc::channel();
    let input = Arc::new(Input::default());
    input.push(b"keys");
    let host = Arc::new(host);
    let early = |end: &ServiceEnd| panic!("it ended early: {end:?}");
    let thread = start_console(&host, port, input, Sink(sender), early).unwrap();
    memory.write(frame, IN_SIZE as usize, b"hello").unwrap();
    memory.store_u32(frame, offset_of!(ConsoleInterface, out_prod), 3).unwrap();
    crate::event_channel::send(&world.services.domains, &guest.domain, port).unwrap();
    assert_eq!(words.recv().unwrap(), b"hel");
    memory.store_u32(frame, offset_of!(ConsoleInterface, out_prod), 5).unwrap();
    assert!(matches!(thread.finish(), Some(Ok(LifecycleEnd::Stopped))));
    assert_eq!(words.recv().unwrap(), b"lo");
    assert!(host.bind_port(guest.domain.id(), port, Arc::default()).is_ok(), "its port is closed");
    let mut keys = [0; 4];
    memory.read(frame, 0, &mut keys).unwrap();
    assert_eq!(&keys, b"keys");
    assert!(guest.domain.shared().is_pending(port));
}

/// Whoever pauses a console waits for its last words, and not for a thread that is gone.
#[test]
fn a_service_pauses_and_one_that_has_ended_is_not_waited_for() {
    let (world, guest, host, port) = setup();
    let (memory, frame) = (world.services.mmu.memory(), guest.pages[0]);
    let say = |produced| memory.store_u32(frame, offset_of!(ConsoleInterface, out_prod), produced).unwrap();
    let taken = || memory.load_u32(frame, offset_of!(ConsoleInterface, out_cons)).unwrap();
    let (ended, end) = mpsc::channel();
    let ended = move |end: &ServiceEnd| ended.send(end.is_err()).unwrap();
    let thread = start_console(&Arc::new(host), port, Arc::default(), io::sink(), ended).unwrap();
    say(7);
    assert!(thread.pause());
    assert_eq!(taken(), 7);
    say(9);
    crate::event_channel::send(&world.services.domains, &guest.domain, port).unwrap();
    std::thread::yield_now();
    assert_eq!(taken(), 7, "it pauses");
    thread.resume();
    wait_until(|| taken() == 9);
    say(1 << 30);
    crate::event_channel::send(&world.services.domains, &guest.domain, port).unwrap();
    assert!(end.recv().unwrap(), "it was lied to");
    let (paused, answer) = mpsc::channel();
    std::thread::spawn(move || paused.send(thread.pause()));
    assert_eq!(answer.recv_timeout(LIMIT), Ok(false));
}
