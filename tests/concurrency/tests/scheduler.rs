//! The scheduler, and events that come while a vCPU goes to sleep, or into the guest, or while its pcpu does.

use concurrency_tests::alarm::Alarm;
use concurrency_tests::clock::FakeClock;
use concurrency_tests::domain::{Domain, End, NoConsole, Parts, SharedPage, Wake};
use concurrency_tests::every_interleaving;
use concurrency_tests::machine::{Kick, MachineMemory};
use concurrency_tests::sched::{FairShare, Leave, Next, Scheduler};
use concurrency_tests::sync::atomic::{AtomicBool, Ordering::SeqCst};
use concurrency_tests::vcpu::{VcpuHandle, VcpuKey};
use pv_abi::{DomId, Mfn, VcpuId};
use shuttle::thread;
use std::sync::Arc;

const KEY: VcpuKey = VcpuKey { domain: DomId(1), vcpu: VcpuId(0) };

#[derive(Debug)]
struct Nobody;

impl Wake for Nobody {
    fn wake(&self, _: VcpuKey) {}
}

/// A domain that is only known by its name here.
fn domain() -> Arc<Domain> {
    let memory = Arc::new(MachineMemory::new(1));
    let shared = SharedPage::new(memory, Mfn(0)).unwrap();
    let vcpus = vec![VcpuHandle::new(KEY, 1, shared.vcpu_info(KEY.vcpu).unwrap(), Arc::default())];
    let (console, wake) = (Arc::new(NoConsole), Arc::new(Nobody));
    let name = String::new();
    Arc::new(Domain::new(Parts { id: KEY.domain, name, shared, vcpus, maximum_pages: 0, console, wake }))
}

/// Whether the pcpu was kicked.
struct Kicked(AtomicBool);

impl Kick for Kicked {
    fn kick(&self) {
        self.0.store(true, SeqCst);
    }
}

struct Scene {
    scheduler: Scheduler,
    /// Pending and not masked.
    event: AtomicBool,
    kicked: Arc<Kicked>,
}

fn scene() -> Arc<Scene> {
    let kicked = Arc::new(Kicked(AtomicBool::new(false)));
    let kicks = vec![Arc::clone(&kicked) as Arc<dyn Kick>];
    let clock = Arc::new(FakeClock::default());
    let alarm = Arc::new(Alarm::new(clock.clone()));
    let scheduler = Scheduler::new(clock, alarm, Box::new(FairShare::default()), kicks);
    Arc::new(Scene { scheduler, event: AtomicBool::new(false), kicked })
}

/// Who raises an event stores it first, and wakes then.
fn raise(scene: &Scene) {
    scene.event.store(true, SeqCst);
    scene.scheduler.wake(KEY);
}

fn runs(scheduler: &Scheduler) -> bool {
    matches!(scheduler.next(0), Next::Run { .. })
}

/// Pending and mask against block: what comes while a vCPU goes to sleep wakes it.
#[test]
fn no_event_is_slept_through() {
    every_interleaving("block", || {
        let (scene, domain) = (scene(), domain());
        scene.scheduler.start(&domain);
        assert!(runs(&scene.scheduler));
        let theirs = Arc::clone(&scene);
        let sender = thread::spawn(move || raise(&theirs));
        scene.scheduler.leave(0, KEY, &Leave::Blocked(&|| scene.event.load(SeqCst)));
        sender.join().unwrap();
        assert!(runs(&scene.scheduler), "it sleeps, and its event is there");
    });
}

/// Upcall against entry: the vCPU sees the event before it goes in, or is kicked out.
#[test]
fn no_event_waits_for_a_guest_to_come_back_by_itself() {
    every_interleaving("entry", || {
        let (scene, domain) = (scene(), domain());
        scene.scheduler.start(&domain);
        assert!(runs(&scene.scheduler));
        let theirs = Arc::clone(&scene);
        let sender = thread::spawn(move || raise(&theirs));
        scene.scheduler.entering(0);
        let seen = scene.event.load(SeqCst);
        sender.join().unwrap();
        assert!(seen || scene.kicked.0.load(SeqCst), "in the guest, and nobody told it");
    });
}

/// The test above can fail: a pcpu that looks before it says that it goes in is caught.
#[test]
#[should_panic(expected = "nobody told it")]
fn looking_before_entering_is_caught() {
    every_interleaving("entry, the wrong way round", || {
        let (scene, domain) = (scene(), domain());
        scene.scheduler.start(&domain);
        assert!(runs(&scene.scheduler));
        let theirs = Arc::clone(&scene);
        let sender = thread::spawn(move || raise(&theirs));
        let seen = scene.event.load(SeqCst);
        scene.scheduler.entering(0);
        sender.join().unwrap();
        assert!(seen || scene.kicked.0.load(SeqCst), "in the guest, and nobody told it");
    });
}

/// The end of a turn against entry: the pcpu, which looks without the lock, sees it, or is kicked out.
#[test]
fn no_end_of_a_turn_waits_for_a_guest_to_come_back_by_itself() {
    every_interleaving("entry and end", || {
        let (scene, domain) = (scene(), domain());
        scene.scheduler.start(&domain);
        assert!(runs(&scene.scheduler));
        let theirs = Arc::clone(&scene);
        let stopper = thread::spawn(move || theirs.scheduler.stop());
        scene.scheduler.entering(0);
        let seen = scene.scheduler.turn_is_over(0);
        stopper.join().unwrap();
        assert!(seen || scene.kicked.0.load(SeqCst), "in the guest, and nobody told it");
    });
}

/// A pcpu that goes to sleep while a vCPU becomes ready runs it: otherwise it would sleep for ever, a deadlock.
#[test]
fn a_pcpu_does_not_sleep_while_there_is_work() {
    every_interleaving("idle", || {
        let (scene, domain) = (scene(), domain());
        let theirs = Arc::clone(&scene);
        let pcpu = thread::spawn(move || {
            while !runs(&theirs.scheduler) {
                theirs.scheduler.idle(0);
            }
        });
        scene.scheduler.start(&domain);
        pcpu.join().unwrap();
    });
}

/// A pause at any moment while a vCPU, and then its pcpu, goes to sleep: when the vCPU is said to be off its pcpu, it is,
/// and an event does not bring it back, but is there when it goes on. A pcpu that missed to save it would sleep for ever.
#[test]
fn a_paused_vcpu_is_on_no_pcpu_and_loses_no_event() {
    every_interleaving("pause", || {
        let (scene, domain, saved) = (scene(), domain(), Arc::new(AtomicBool::new(false)));
        assert!(domain.life().start());
        scene.scheduler.start(&domain);
        assert!(runs(&scene.scheduler));
        let (theirs, tells) = (Arc::clone(&scene), Arc::clone(&saved));
        let pcpu = thread::spawn(move || {
            theirs.scheduler.leave(0, KEY, &Leave::Blocked(&|| theirs.event.load(SeqCst)));
            loop {
                match theirs.scheduler.next(0) {
                    Next::Save => break,
                    Next::Idle => theirs.scheduler.idle(0),
                    Next::Run { .. } | Next::Stop => panic!("it sleeps"),
                }
            }
            tells.store(true, SeqCst);
            theirs.scheduler.saved(KEY);
        });
        assert!(domain.life().pause() && scene.scheduler.pause(&domain));
        assert!(saved.load(SeqCst), "a pcpu has something of it");
        raise(&scene);
        assert!(!runs(&scene.scheduler), "a pcpu has got it again");
        pcpu.join().unwrap();
        assert!(domain.life().unpause());
        scene.scheduler.unpause(&domain);
        assert!(runs(&scene.scheduler), "it sleeps, and its event is there");
    });
}

/// Whoever finds that a domain is not paused any more finds why.
#[test]
fn a_pause_that_an_end_ends_is_told_as_an_end() {
    every_interleaving("end of a pause", || {
        let domain = domain();
        assert!(domain.life().start() && domain.life().pause());
        let its = Arc::clone(&domain);
        let ender = thread::spawn(move || its.life().end(End::Destroyed));
        if !domain.life().is_paused() {
            assert!(domain.life().has_ended(), "it looks as if it ran");
        }
        assert!(ender.join().unwrap());
    });
}

/// What ends while somebody waits for it to pause is not waited for.
#[test]
fn nobody_waits_for_a_domain_that_ends() {
    every_interleaving("pause and end", || {
        let (scene, domain) = (scene(), domain());
        assert!(domain.life().start());
        scene.scheduler.start(&domain);
        assert!(runs(&scene.scheduler), "and never leaves");
        let (theirs, dying) = (Arc::clone(&scene), Arc::clone(&domain));
        let ending = thread::spawn(move || {
            assert!(dying.life().end(End::Destroyed));
            theirs.scheduler.evict(KEY.domain);
        });
        assert!(!(domain.life().pause() && scene.scheduler.pause(&domain)));
        ending.join().unwrap();
    });
}
