//! Ports that become pending while a guest looks, unmasks, polls, closes them, or moves its `vcpu_info`.

use concurrency_tests::alarm::Alarm;
use concurrency_tests::clock::FakeClock;
use concurrency_tests::domain::{Domain, Domains, NoConsole, Parts, SharedPage, Wake};
use concurrency_tests::event_channel::{
    Peer, alloc_unbound, announce_poll, bind_interdomain, bind_ipi, close, raise, send, status, unmask,
};
use concurrency_tests::every_interleaving;
use concurrency_tests::machine::{Kick, MachineMemory};
use concurrency_tests::sched::{FairShare, Leave, Next, Scheduler};
use concurrency_tests::vcpu::{InfoPage, VcpuHandle, VcpuKey};
use pv_abi::event_channel::PortStatus;
use pv_abi::shared_info::{SharedInfo, VcpuInfo};
use pv_abi::{DomId, EventPort, Mfn, VcpuId};
use shuttle::thread;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const KEY: VcpuKey = VcpuKey { domain: DomId(1), vcpu: VcpuId(0) };
const SHARED: Mfn = Mfn(0);
/// Where the `vcpu_info` moves to.
const MOVED: (Mfn, usize) = (Mfn(1), 128);

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(&self, _: VcpuKey) {
        self.0.store(true, SeqCst);
    }
}

/// A domain of one vCPU, with a port that it can send to itself.
struct Scene {
    memory: Arc<MachineMemory>,
    domains: Domains,
    domain: Arc<Domain>,
    port: EventPort,
}

fn domain(memory: &Arc<MachineMemory>, wake: Arc<dyn Wake>) -> Arc<Domain> {
    let shared = SharedPage::new(Arc::clone(memory), SHARED).unwrap();
    let vcpus = vec![VcpuHandle::new(KEY, 1, shared.vcpu_info(KEY.vcpu).unwrap(), Arc::default())];
    let (console, name) = (Arc::new(NoConsole), String::new());
    Arc::new(Domain::new(Parts { id: KEY.domain, name, shared, vcpus, maximum_pages: 0, console, wake }))
}

fn scene(wake: Arc<dyn Wake>) -> Arc<Scene> {
    let memory = Arc::new(MachineMemory::new(2));
    let (domain, domains) = (domain(&memory, wake), Domains::default());
    domains.insert(Arc::clone(&domain));
    let port = bind_ipi(&domain, KEY.vcpu).unwrap();
    Arc::new(Scene { memory, domains, domain, port })
}

impl Scene {
    fn info(&self) -> &InfoPage {
        self.domain.vcpus()[0].info()
    }

    fn send(&self) {
        send(&self.domains, &self.domain, self.port).unwrap();
    }

    /// The guest's handler of upcalls, with its `vcpu_info` at `place`: true where it found the port.
    fn look(&self, (frame, offset): (Mfn, usize)) -> bool {
        let upcall = offset + offset_of!(VcpuInfo, evtchn_upcall_pending);
        if self.memory.swap_u8(frame, upcall, 0).unwrap() == 0 {
            return false;
        }
        let selector = offset + offset_of!(VcpuInfo, evtchn_pending_sel);
        let words = self.memory.fetch_and_u64(frame, selector, 0).unwrap();
        words & 1 != 0 && self.take()
    }

    /// The guest takes the port's event, if there is one.
    fn take(&self) -> bool {
        let (word, bit) = (offset_of!(SharedInfo, evtchn_pending), 1 << self.port.0);
        self.memory.fetch_and_u64(SHARED, word, !bit).unwrap() & bit != 0
    }

    fn mask(&self) {
        let word = offset_of!(SharedInfo, evtchn_mask);
        self.memory.fetch_or_u64(SHARED, word, 1 << self.port.0).unwrap();
    }
}

/// One thread sends, as `send` does it, while the guest does what `guest` does, with its `vcpu_info` at `place` in the
/// end. Then all is quiet, and the guest looks if its upcall says so: it has the event by then.
fn event(
    name: &'static str,
    send: impl Fn(&Scene) + Clone + Send + Sync + 'static,
    guest: impl Fn(&Scene) -> bool + Send + Sync + 'static,
    place: (Mfn, usize),
) {
    every_interleaving(name, move || {
        let woken = Arc::new(Woken::default());
        let scene = scene(Arc::clone(&woken) as Arc<dyn Wake>);
        let (theirs, send) = (Arc::clone(&scene), send.clone());
        let sender = thread::spawn(move || send(&theirs));
        let taken = guest(&scene);
        sender.join().unwrap();
        assert!(taken || scene.look(place), "the event is lost");
        assert!(taken || woken.0.load(SeqCst), "nobody woke the vCPU");
    });
}

/// The guest looks at any moment: what has become pending after that is told once more.
#[test]
fn an_event_that_comes_while_the_guest_looks_is_told() {
    event("look", Scene::send, |scene| scene.look((SHARED, 0)), (SHARED, 0));
}

fn move_and_look(scene: &Scene) -> bool {
    scene.info().relocate(MOVED.0, MOVED.1).unwrap();
    scene.look(MOVED)
}

/// The sender sets the port's bit, finds the place, marks it; the mover marks everything before the guest looks.
#[test]
fn an_event_that_comes_while_the_info_moves_is_told() {
    event("move", Scene::send, move_and_look, MOVED);
}

/// The test above can fail: a sender that marks before the port's bit is set may mark what nobody looks at any more.
#[test]
#[should_panic(expected = "the event is lost")]
fn a_sender_that_marks_before_the_bit_is_caught() {
    let send = |scene: &Scene| {
        scene.info().mark_pending(0);
        scene.domain.shared().set_pending(scene.port);
        scene.domain.wake(KEY.vcpu);
    };
    event("move, the wrong way round", send, move_and_look, MOVED);
}

/// Of a masked port, which the guest unmasks meanwhile.
fn unmasked(name: &'static str, how: fn(&Scene) -> bool) {
    let guest = move |scene: &Scene| {
        scene.mask();
        how(scene)
    };
    event(name, Scene::send, guest, (SHARED, 0));
}

#[test]
fn an_event_that_comes_while_its_port_is_unmasked_is_told() {
    unmasked("unmask", |scene| {
        unmask(&scene.domain, scene.port).unwrap();
        false
    });
    unmasked("unmask, by the guest itself", |scene| {
        scene.domain.shared().clear_mask(scene.port);
        scene.domain.shared().is_pending(scene.port) && scene.take()
    });
}

/// The test above can fail: looking before unmasking is caught.
#[test]
#[should_panic(expected = "the event is lost")]
fn a_guest_that_looks_before_it_unmasks_is_caught() {
    unmasked("unmask, the wrong way round", |scene| {
        let taken = scene.domain.shared().is_pending(scene.port) && scene.take();
        scene.domain.shared().clear_mask(scene.port);
        taken
    });
}

struct NoGuest;

impl Kick for NoGuest {
    fn kick(&self) {}
}

/// A vCPU polls a port, masked as such ports are, and goes to sleep as `poll` says; meanwhile the port becomes pending.
fn polled(name: &'static str, poll: fn(&Scheduler, &Domain, &[EventPort])) {
    every_interleaving(name, move || {
        let (clock, policy) = (Arc::new(FakeClock::default()), Box::new(FairShare::default()));
        let alarm = Arc::new(Alarm::new(clock.clone()));
        let scheduler = Arc::new(Scheduler::new(clock, alarm, policy, vec![Arc::new(NoGuest)]));
        let scene = scene(Arc::clone(&scheduler) as Arc<dyn Wake>);
        scene.mask();
        scheduler.start(&scene.domain);
        assert!(matches!(scheduler.next(0), Next::Run { .. }));
        let theirs = Arc::clone(&scene);
        let sender = thread::spawn(move || theirs.send());
        poll(&scheduler, &scene.domain, &[scene.port]);
        sender.join().unwrap();
        assert!(matches!(scheduler.next(0), Next::Run { .. }), "it sleeps, and its port is pending");
    });
}

#[test]
fn no_event_is_polled_past() {
    polled("poll", |scheduler, domain, ports| match announce_poll(domain, &domain.vcpus()[0], ports) {
        true => scheduler.leave(0, KEY, &Leave::Ready),
        false => scheduler.leave(0, KEY, &Leave::Blocked(&|| domain.shared().any_pending(ports))),
    });
}

/// The test above can fail: a vCPU that says that it polls when it has looked is caught.
#[test]
#[should_panic(expected = "it sleeps, and its port is pending")]
fn a_poll_that_looks_before_it_is_announced_is_caught() {
    polled("poll, the wrong way round", |scheduler, domain, ports| {
        scheduler.leave(0, KEY, &Leave::Blocked(&|| domain.shared().any_pending(ports)));
        announce_poll(domain, &domain.vcpus()[0], ports);
    });
}

/// A channel is closed at one end, whose number is used again at once, while `send` sends by the other: from the first
/// port to the second.
fn closed(name: &'static str, send: fn(&Scene, EventPort, EventPort)) {
    every_interleaving(name, move || {
        let scene = scene(Arc::new(Woken::default()));
        let domain = &scene.domain;
        let far = alloc_unbound(domain, DomId::SELF).unwrap();
        let near = bind_interdomain(&scene.domains, domain, DomId::SELF, far).unwrap();
        let theirs = Arc::clone(&scene);
        let sender = thread::spawn(move || send(&theirs, near, far));
        close(&scene.domains, domain, far).unwrap();
        assert_eq!(bind_ipi(domain, KEY.vcpu), Ok(far));
        sender.join().unwrap();
        assert!(!domain.shared().is_pending(far), "a closed port's event is another's");
    });
}

/// XSA class "event channels": an event on its way to a port that is closed meanwhile goes nowhere.
#[test]
fn no_event_outlives_its_channel() {
    closed("close", |scene, near, _| send(&scene.domains, &scene.domain, near).unwrap());
}

/// The test above can fail: a sender that does not look again under the lock is caught.
#[test]
#[should_panic(expected = "a closed port's event is another's")]
fn a_sender_that_does_not_look_again_is_caught() {
    closed("close, without another look", |scene, near, far| {
        let found = status(&scene.domain, near).unwrap();
        if found.status == PortStatus::INTERDOMAIN {
            raise(&scene.domain, &scene.domain.ports().lock(), Peer { port: far, vcpu: KEY.vcpu });
        }
    });
}

/// A port is closed as `close` says, while another vCPU binds one, perhaps under the same number, and sends to it.
fn reused(name: &'static str, close: fn(&Scene)) {
    every_interleaving(name, move || {
        let scene = scene(Arc::new(Woken::default()));
        scene.send();
        let theirs = Arc::clone(&scene);
        let closer = thread::spawn(move || close(&theirs));
        let port = bind_ipi(&scene.domain, KEY.vcpu).unwrap();
        send(&scene.domains, &scene.domain, port).unwrap();
        closer.join().unwrap();
        assert!(scene.domain.shared().is_pending(port), "the new port's event went with the old one");
    });
}

/// What was pending is forgotten before the number can be another's.
#[test]
fn a_port_that_is_closed_takes_no_event_of_the_next_along() {
    reused("number used again", |scene| close(&scene.domains, &scene.domain, scene.port).unwrap());
}

#[test]
#[should_panic(expected = "went with the old one")]
fn what_is_forgotten_after_the_close_is_caught() {
    reused("number used again, forgotten late", |scene| {
        close(&scene.domains, &scene.domain, scene.port).unwrap();
        scene.domain.shared().clear_pending(scene.port);
    });
}
