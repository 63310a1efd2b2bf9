//! Errors of the host at every call: the guest sees an error or what is right, never anything else.

use super::faulty::{Event, Fault, Faulty, Log};
use super::front::*;
use super::random::Random;
use crate::block::buffer::Piece;
use crate::block::engine::{Call, Transfer};
use crate::block::{Backend, Buffer, Disk};
use crate::driver::Device;
use crate::fake_host::{FakeHost, FakePage};
use crate::host::{Access, Host, Page};
use pv_abi::io::block::{Operation, Status};
use pv_abi::{GrantRef, PAGE_SIZE};
use rustix::io::Errno;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

fn faulty(
    front: &Front,
    disk: &Arc<Disk>,
    by: By,
    faults: impl FnMut(&Event) -> Option<Fault> + Send + 'static,
) -> (Backend<FakeHost>, Log) {
    let (log, image) = (Log::default(), Arc::clone(disk.image()));
    let backend = front
        .connect_with(disk, |depth, bell| Box::new(Faulty::new(by.engine(image, depth, bell), &log, faults)));
    (backend, log)
}

/// Every kind of call, every error: the request says so, once, and the next one is done.
#[test]
fn an_error_at_any_call_is_an_error_of_its_request() {
    for by in ENGINES {
        for errno in [Errno::IO, Errno::NOSPC, Errno::AGAIN, Errno::BADF] {
            for (what, kind) in [
                (read(1, 8, &[whole(0), whole(1)]), "reading sector 8"),
                (write(1, 8, &[whole(0), whole(1)]), "writing sector 8"),
                (discard(1, 8, 8), "discarding sector 8"),
            ] {
                let mut front = Front::new();
                let (_file, disk) = file_disk(64);
                let mut fail = true;
                let (mut backend, _) = faulty(&front, &disk, by, move |_| {
                    std::mem::take(&mut fail).then_some(Fault::Error(errno))
                });
                assert_eq!(front.call(&mut backend, &what), Status::ERROR);
                let (count, message) = disk.failures().total();
                let expected =
                    format!("{kind} failed: {}; the guest was told of an error", io::Error::from(errno));
                assert_eq!((count, message), (1, Some(expected)));
                assert_ne!(front.call(&mut backend, &what), Status::ERROR);
            }
        }
    }
}

/// What a read has moved before it failed is in the front-end's pages, and whoever looks for changes is told of them.
#[test]
fn a_read_that_fails_half_way_says_that_its_pages_were_written() {
    // How much was moved before one that fails at once is not known.
    let cases = [(&[Fault::Short(512), Fault::Error(Errno::IO)][..], 7), (&[Fault::Error(Errno::IO)], 0)];
    for (by, (faults, last_moved)) in ENGINES.into_iter().flat_map(|by| cases.map(|case| (by, case))) {
        let mut front = Front::new();
        let (file, disk) = file_disk(64);
        file.write_all_at(&[7; 2 * PAGE_SIZE], 0).unwrap();
        let mut faults = faults.iter().copied();
        let (mut backend, _) = faulty(&front, &disk, by, move |_| faults.next());
        assert_eq!(front.call(&mut backend, &read(1, 0, &[whole(0), whole(1)])), Status::ERROR);
        let page = front.page(0);
        assert_eq!((page.bytes()[511], page.bytes()[512]), (last_moved, 0));
        assert!(page.times_written() > 0);
    }
}

#[test]
fn a_disk_that_cannot_discard_says_so() {
    let mut front = Front::new();
    let (_file, disk) = file_disk(64);
    let (mut backend, _) = faulty(&front, &disk, By::Blocking, |_| Some(Fault::Error(Errno::OPNOTSUPP)));
    assert_eq!(front.call(&mut backend, &discard(1, 0, 8)), Status::EOPNOTSUPP);
    assert_eq!(front.call(&mut backend, &write(1, 0, &[whole(0)])), Status::ERROR);
}

/// After one, the kernel may have forgotten what it could not write. No later flush may promise that it is there.
#[test]
fn after_a_flush_that_failed_nothing_is_promised_any_more() {
    for last in [flush(1), request(Operation::WRITE_BARRIER, 1, 0, &[whole(0)])] {
        let mut front = Front::new();
        let (_file, disk) = file_disk(64);
        let mut flushes = 0;
        let (mut backend, _) = faulty(&front, &disk, By::Blocking, move |event| {
            flushes += u32::from(*event == Event::Flush);
            (*event == Event::Flush && flushes == 2).then_some(Fault::Error(Errno::IO))
        });
        assert_eq!(front.call(&mut backend, &flush(0)), Status::OKAY);
        assert_eq!(front.call(&mut backend, &last), Status::ERROR);
        for request in [flush(2), request(Operation::WRITE_BARRIER, 1, 0, &[]), write(3, 0, &[whole(0)])] {
            assert_eq!(front.call(&mut backend, &request), Status::ERROR);
        }
        assert!(disk.failures().total().1.unwrap().contains("a flush has failed before"));
        assert_eq!(front.call(&mut backend, &read(4, 0, &[whole(0)])), Status::OKAY);
        drop(backend);
        let mut backend = front.connect(&disk);
        assert_eq!(front.call(&mut backend, &flush(5)), Status::ERROR, "for the next connection neither");
    }
}

/// A transfer of every length falls short at every place, and is interrupted besides.
#[test]
fn short_and_interrupted_transfers_are_gone_on_with() {
    for by in ENGINES {
        let mut front = Front::new();
        let (file, disk) = file_disk(128);
        let mut random = Random::new(7);
        let (mut backend, log) = faulty(&front, &disk, by, move |_| match random.below(4) {
            0 => Some(Fault::Error(Errno::INTR)),
            1 => None,
            _ => Some(Fault::Short(1 + random.below(3000) as usize)),
        });
        let mut random = Random::new(8);
        for round in 0..50 {
            let segments: Vec<_> =
                (0..=random.below(10) as u32).map(|page| sectors(page, random.below(4) as u8, 6)).collect();
            (0..11).for_each(|page| {
                let bytes: Vec<u8> = (0..4096).map(|_| random.next() as u8).collect();
                front.page(page).write(0, &bytes).unwrap();
            });
            let bytes: Vec<u8> = segments.iter().flat_map(|it| in_page(&front, it)).collect();
            assert_eq!(front.call(&mut backend, &write(round, 5, &segments)), Status::OKAY);
            let mut stored = vec![0; bytes.len()];
            file.read_exact_at(&mut stored, 5 * 512).unwrap();
            assert!(stored == bytes, "round {round}");
            (0..11).for_each(|page| front.fill(page, 0));
            assert_eq!(front.call(&mut backend, &read(round, 5, &segments)), Status::OKAY);
            let read: Vec<u8> = segments.iter().flat_map(|it| in_page(&front, it)).collect();
            assert!(read == bytes, "round {round}");
        }
        assert!(log.lock().unwrap().len() > 400, "it took more calls than requests");
    }
}

fn in_page(front: &Front, segment: &pv_abi::io::block::Segment) -> Vec<u8> {
    let (start, length) = crate::block::request::range(segment);
    front.page(segment.gref.0 - DATA).bytes()[start..start + length].to_vec()
}

/// Others go on while a call hangs, and nothing of it is given back before it has ended.
#[test]
fn a_call_that_stalls_holds_up_nobody_else() {
    for by in ENGINES {
        let mut front = Front::new();
        let (_file, disk) = file_disk(64);
        let (mut backend, _) =
            faulty(&front, &disk, by, |event| (*event == Event::Read(0)).then_some(Fault::Stall(u32::MAX)));
        front.ask(&read(1, 0, &[whole(0)]));
        for id in 2..100 {
            front.ask(&read(id, 8, &[whole(1)]));
            while front.ring.outstanding() > 1 {
                backend.serve().unwrap();
                assert!(front.answers().iter().all(|answer| *answer == (id, Status::OKAY)));
            }
        }
        assert_eq!((front.page(0).times_mapped(), front.page(1).times_mapped()), (1, 0));
        backend.quiesce().unwrap();
        assert_eq!(front.answers(), [(1, Status::OKAY)]);
        assert_eq!(front.page(0).times_mapped(), 0);
    }
}

/// What is under way when the front-end is given up has ended when the pages are given back.
#[test]
fn a_connection_that_ends_waits_for_what_is_under_way() {
    for by in ENGINES {
        let mut front = Front::new();
        let (_file, disk) = file_disk(1024);
        let mut backend = front.connect_by(&disk, by);
        front.ask_all((0..32).map(|id| read(id, id * 8, &[whole(id as u32)])));
        backend.serve().unwrap();
        front.host.grant(GUEST, RING).take_away();
        assert!(backend.serve().is_err());
        drop(backend);
        assert!((0..32).all(|page| front.page(page).times_mapped() == 0));
    }
}

/// The kernel has pointers into the pages: they are not given back while it uses them. A memory file is read by a thread of
/// the kernel's, so that what was only begun has not ended yet.
#[test]
fn an_engine_that_is_dropped_has_ended_what_it_had_begun() {
    let (file, disk) = file_disk(1024);
    file.write_all_at(&[7; 1024 * 512], 0).unwrap();
    let front = Front::new();
    for _ in 0..20 {
        let mut engine = By::Uring.engine(Arc::clone(disk.image()), 32, &front.bell);
        for number in 0..32 {
            front.fill(number, 0);
            engine.start(number, read_page(&front, number));
        }
        engine.submit();
        drop(engine);
        assert!((0..32).all(|number| front.page(number).bytes() == [7; PAGE_SIZE]));
    }
}

/// Whoever asked for a read may be gone: then nobody but the engine has its pages, and it has them until it has reported.
#[test]
fn an_engine_keeps_the_pages_of_a_read_that_nobody_else_has() {
    let ((_file, disk), front) = (file_disk(1024), Front::new());
    let mut engine = By::Uring.engine(Arc::clone(disk.image()), 32, &front.bell);
    (0..32).for_each(|number| engine.start(number, read_page(&front, number)));
    engine.submit();
    let mut under_way: Vec<u32> = (0..32).collect();
    while !under_way.is_empty() {
        for number in 0..32 {
            let kept = usize::from(under_way.contains(&number));
            assert_eq!(front.page(number).times_mapped(), kept, "page {number}");
        }
        engine.wait();
        while let Some((token, result)) = engine.finished() {
            assert_eq!(result.unwrap(), PAGE_SIZE);
            under_way.retain(|number| *number != token);
        }
    }
}

/// Ends each `io_uring_enter` of this thread with EPERM, as a filter of system calls does that somebody has put around the
/// process.
#[allow(unsafe_code)] // nothing safe installs a filter
fn refuse_io_uring_enter() {
    let code = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let is_enter = libc::SYS_io_uring_enter as u32;
    let mut filter = [
        code((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        code((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, is_enter, 0, 1),
        code((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        code((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and what it points to live during the call, which copies them.
    let (modest, filtered) = unsafe {
        let modest = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        (modest, libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
    };
    assert_eq!((modest, filtered), (0, 0), "{}", io::Error::last_os_error());
}

/// Runs a test in a thread of its own, whose filter ends with it.
fn in_thread(test: fn()) {
    std::thread::spawn(test).join().unwrap();
}

/// It is asked for about a second; then the disk goes on without it, and whoever runs the guest is told once.
#[test]
fn a_host_that_refuses_io_uring_is_not_asked_for_ever() {
    in_thread(|| {
        let (mut front, (file, disk)) = (Front::new(), file_disk(1024));
        file.write_all_at(&[7; 1024 * 512], 0).unwrap();
        let mut backend = front.connect_by(&disk, By::Uring);
        refuse_io_uring_enter();
        front.ask_all((0..16).map(|id| read(id, id * 8, &[whole(id as u32)])).chain([flush(16)]));
        let mut answers = Vec::new();
        for turn in 0.. {
            assert!(turn < 10_000, "{} of 17 requests were answered", answers.len());
            backend.serve().unwrap();
            answers.extend(front.answers());
            if answers.len() == 17 {
                break;
            }
        }
        assert!(answers.iter().all(|(_, status)| *status == Status::OKAY), "{answers:?}");
        assert!((0..16).all(|page| front.page(page).bytes() == [7; PAGE_SIZE]));
        if crate::block::engine::uring::is_available() {
            let outcome = "the disk goes on without it, one call after the other";
            let told = format!("io_uring failed: {}; {outcome}", io::Error::from(Errno::PERM));
            assert_eq!(disk.failures().total(), (1, Some(told)));
        }
        front.ask_all((0..16).map(|id| read(id, id * 8, &[whole(id as u32)])));
        while front.ring.outstanding() != 0 {
            backend.serve().unwrap();
            assert!(front.answers().iter().all(|(_, status)| *status == Status::OKAY));
        }
        assert!(disk.failures().total().0 <= 1, "it is told once");
    });
}

/// What the kernel has got is its own until it has reported, also where it is not asked for that any more.
#[test]
fn a_ring_that_is_given_up_keeps_the_pages_that_the_kernel_has_got() {
    in_thread(|| {
        let ((file, disk), front) = (file_disk(1024), Front::new());
        file.write_all_at(&[7; 1024 * 512], 0).unwrap();
        let mut engine = By::Uring.engine(Arc::clone(disk.image()), 32, &front.bell);
        (0..24).for_each(|number| engine.start(number, read_page(&front, number)));
        engine.submit();
        refuse_io_uring_enter();
        (24..32).for_each(|number| engine.start(number, read_page(&front, number)));
        let given_up = (0..10_000).any(|_| {
            engine.wait();
            engine.take_failure().is_some()
        });
        assert!(given_up || !crate::block::engine::uring::is_available());
        let mut under_way: Vec<u32> = (0..32).collect();
        while !under_way.is_empty() {
            for number in under_way.iter().filter(|number| **number < 24 && given_up) {
                assert_eq!(front.page(*number).times_mapped(), 1, "page {number}");
            }
            engine.wait();
            while let Some((token, result)) = engine.finished() {
                assert_eq!(result.unwrap(), PAGE_SIZE);
                assert!(under_way.contains(&token), "{token} is reported twice");
                under_way.retain(|number| *number != token);
            }
        }
        assert!((0..32).all(|number| front.page(number).bytes() == [7; PAGE_SIZE]));
        drop(engine);
        assert!((0..32).all(|number| front.page(number).times_mapped() == 0));
    });
}

/// A call that reads the page of that number of the image.
fn read_page(front: &Front, number: u32) -> Call<FakePage> {
    let page = front.host.map_grant(GUEST, GrantRef(DATA + number), Access::ReadWrite).unwrap();
    let piece = Piece { page: Arc::new(page), start: 0, length: PAGE_SIZE };
    let buffer = Arc::new(Buffer::new(vec![piece], Access::ReadWrite));
    Call::Read(Transfer { buffer, from: 0, offset: u64::from(number) * PAGE_SIZE as u64 })
}

#[test]
fn no_end_of_a_call_is_slept_through() {
    for by in ENGINES {
        let ((_file, disk), front) = (file_disk(1024), Front::new());
        let mut engine = by.engine(Arc::clone(disk.image()), 32, &front.bell);
        assert!(!engine.prepare_to_sleep());
        for round in 0..200 {
            engine.start(0, read_page(&front, 0));
            engine.submit();
            if round % 2 == 0 {
                engine.wait();
                assert!(engine.prepare_to_sleep(), "it has ended before");
            }
            let (token, result) = loop {
                if let Some(ended) = engine.finished() {
                    break ended;
                }
                // The bell may ring for an end that was seen without it: then this is gone through once more.
                let minute = std::time::Duration::from_secs(60);
                assert!(engine.prepare_to_sleep() || front.bell.listen_for(minute), "the bell is not rung");
            };
            assert_eq!((token, result.unwrap()), (0, PAGE_SIZE));
        }
    }
}

/// The image is cut short by somebody else: what is gone is an error, and no write makes zeros of it.
#[test]
fn an_image_that_shrinks_is_an_error_and_not_zeros() {
    for by in ENGINES {
        let mut front = Front::new();
        let (file, disk) = file_disk(64);
        let mut backend = front.connect_by(&disk, by);
        front.fill(0, 7);
        assert_eq!(front.call(&mut backend, &write(0, 0, &[whole(0)])), Status::OKAY);
        file.set_len(10 * 512).unwrap();
        assert_eq!(front.call(&mut backend, &read(1, 8, &[whole(1)])), Status::ERROR);
        assert_eq!(front.call(&mut backend, &write(2, 32, &[whole(0)])), Status::ERROR);
        assert_eq!(front.call(&mut backend, &flush(3)), Status::ERROR);
        assert!(disk.failures().total().1.unwrap().contains("bytes when it was opened, and has 5120 now"));
        assert_eq!(file.metadata().unwrap().len(), 10 * 512);
        assert_eq!(
            front.call(&mut backend, &read(4, 0, &[whole(1)])),
            Status::OKAY,
            "what is there is there"
        );
    }
}
