//! Lives of a device, on a fake host and a real store: the block driver and front-ends of every kind.

use super::*;
use crate::block::image::MemoryImage;
use crate::block::{BlockDriver, Disk, address};
use crate::fake_host::FakeHost;
use crate::pages::Pages;
use crate::xenstore::{Access, Caller, Permissions, Store, StoreHandle};
use pv_abi::io::block::{Operation, Request, Response, Segment, Status};
use pv_abi::io::xenbus::XenbusState;
use pv_abi::ring::{FrontRing, REQ_PROD, RSP_PROD};
use pv_abi::{DomId, EventPort, GrantRef};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use zerocopy::FromZeros;

const GUEST: DomId = DomId(3);
const PORT: EventPort = EventPort(9);
const RING: u32 = 20;

struct World {
    host: Arc<FakeHost>,
    store: StoreHandle,
    address: Address,
}

impl World {
    fn new() -> Self {
        let (host, store) = (Arc::new(FakeHost::default()), StoreHandle::new(Store::default()));
        host.offer(GUEST, PORT);
        store.introduce(GUEST).unwrap();
        store.mkdir("/local/domain/3").unwrap();
        let readable = Permissions::private(DomId::HOST).and(GUEST, Access::READ);
        store.set_permissions("/local/domain/3", readable).unwrap();
        Self { host, store, address: address(GUEST, 0) }
    }

    fn driver(&self, writable: bool) -> BlockDriver {
        let image = MemoryImage::new(1 << 20, b"contents").unwrap();
        let driver = BlockDriver::new(Arc::new(Disk::new("demo", Arc::new(image), writable)));
        let (front, back) = driver.nodes(&self.address);
        create(&self.store, &self.address, &front, &back).unwrap();
        driver
    }

    /// Runs a life beside `front_end`, until that returns and the life is told to stop, or has ended. Returns how it
    /// ended, and what failed.
    fn live(
        &self,
        driver: impl Driver<FakeHost> + 'static,
        front_end: impl FnOnce(),
    ) -> (LifecycleEnd, Vec<String>) {
        self.live_controlled(driver, |_| front_end())
    }

    /// As [`Self::live`]; `front_end` gets what the life is told by, too.
    fn live_controlled(
        &self,
        driver: impl Driver<FakeHost> + 'static,
        front_end: impl FnOnce(&ServiceControl),
    ) -> (LifecycleEnd, Vec<String>) {
        let (host, store) = (Arc::clone(&self.host), self.store.clone());
        let life = DeviceLifecycle::new(host, store, self.address, Box::new(driver)).unwrap();
        let (control, mut reasons) = (Arc::clone(life.control()), Vec::new());
        let end = std::thread::scope(|scope| {
            let living = scope.spawn(|| life.run(&mut |reason| reasons.push(reason.to_string())));
            let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| front_end(&control)));
            control.stop();
            let end = living.join().unwrap().unwrap();
            played.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            end
        });
        assert_eq!((self.mapped(), self.host.open_ports()), (0, 0), "everything is given back");
        (end, reasons)
    }

    fn mapped(&self) -> usize {
        (0..20).map(|page| self.host.grant(GUEST, GrantRef(RING + page)).times_mapped()).sum()
    }

    /// The front-end writes, as the guest that it is.
    fn say(&self, name: &str, value: &str) {
        let path = format!("{}/{name}", self.address.front_end());
        let said = self.store.with(|store| store.operate(Caller::Domain(GUEST), |it| it.write(&path, value)));
        assert_eq!(said, Ok(()), "{path}");
    }

    /// The front-end reads what the back-end says.
    fn hear(&self, name: &str) -> Option<String> {
        let path = format!("{}/{name}", self.address.back_end());
        let heard = self.store.with(|store| store.operate(Caller::Domain(GUEST), |it| it.read(&path)));
        heard.ok().map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    fn state(&self, state: XenbusState) {
        self.say("state", &state.0.to_string());
    }

    fn wait_for(&self, state: XenbusState) {
        wait_until(|| self.hear("state") == Some(state.0.to_string()), &format!("{state}"));
    }

    /// A new ring, which the front-end tells of.
    fn offer_ring(&self) -> FrontRing<Pages<crate::fake_host::FakePage>, Request, Response> {
        let page = self.host.grant(GUEST, GrantRef(RING));
        let ring = FrontRing::initialise(Pages::new(vec![page]), 4096).unwrap();
        self.say("ring-ref", &RING.to_string());
        self.say("event-channel", &PORT.0.to_string());
        self.say("protocol", "x86_64-abi");
        ring
    }

    /// Reads the first sector, which shows that the device works.
    fn use_disk(&self, ring: &mut FrontRing<Pages<crate::fake_host::FakePage>, Request, Response>) {
        self.ask_disk(ring);
        self.await_disk(ring);
    }

    /// Asks for the first sector.
    fn ask_disk(&self, ring: &mut FrontRing<Pages<crate::fake_host::FakePage>, Request, Response>) {
        let mut request = Request { operation: Operation::READ, nr_segments: 1, ..Request::new_zeroed() };
        request.seg[0] = Segment { gref: GrantRef(RING + 1), first_sect: 0, last_sect: 0, padding: 0 };
        self.host.grant(GUEST, GrantRef(RING + 1));
        ring.put(&request).unwrap();
        ring.publish().unwrap();
        self.host.notify_backend(GUEST, PORT);
    }

    /// Waits for the first sector.
    fn await_disk(&self, ring: &mut FrontRing<Pages<crate::fake_host::FakePage>, Request, Response>) {
        let page = self.host.grant(GUEST, GrantRef(RING + 1));
        let mut answer = None;
        wait_until(
            || {
                answer = ring.take().unwrap();
                answer.is_some()
            },
            "an answer",
        );
        assert_eq!(answer.unwrap().status, Status::OKAY);
        assert_eq!(page.bytes()[..8], *b"contents");
    }
}

pub(super) fn wait_until(mut what: impl FnMut() -> bool, name: &str) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(60), "{name} does not come");
        std::thread::yield_now();
    }
}

use XenbusState as S;

#[test]
fn a_front_end_finds_a_disk_uses_it_and_leaves() {
    let world = World::new();
    let (end, reasons) = world.live(world.driver(true), || {
        world.wait_for(S::INIT_WAIT);
        let heard = |name| world.hear(name).unwrap();
        assert_eq!((&heard("feature-flush-cache")[..], &heard("feature-barrier")[..]), ("1", "1"));
        assert_eq!(
            (&heard("feature-max-indirect-segments")[..], &heard("max-ring-page-order")[..]),
            ("256", "4")
        );
        assert_eq!((&heard("mode")[..], world.hear("sectors")), ("w", None));
        let mut ring = world.offer_ring();
        world.state(S::INITIALISED);
        world.wait_for(S::CONNECTED);
        let heard = |name| world.hear(name).unwrap();
        assert_eq!(
            (&heard("sectors")[..], &heard("sector-size")[..], &heard("info")[..]),
            ("2048", "512", "0")
        );
        world.state(S::CONNECTED);
        world.use_disk(&mut ring);
        world.state(S::CLOSING);
        world.wait_for(S::CLOSING);
        world.state(S::CLOSED);
        world.wait_for(S::CLOSED);
        assert_eq!((world.mapped(), world.host.open_ports()), (0, 0), "before it says so");
    });
    assert_eq!((end, reasons), (LifecycleEnd::Stopped, vec![]));
}

#[test]
fn a_read_only_disk_says_so() {
    let world = World::new();
    world.live(world.driver(false), || {
        world.wait_for(S::INIT_WAIT);
        world.offer_ring();
        world.state(S::CONNECTED);
        world.wait_for(S::CONNECTED);
        let heard = |name| world.hear(name).unwrap();
        assert_eq!((&heard("mode")[..], &heard("info")[..], &heard("feature-discard")[..]), ("r", "4", "0"));
    });
}

/// What was asked for at any moment before a pause is answered when the device pauses, or when it goes on; nothing of
/// its front-end changes while it pauses, whatever that asks for or says in the store.
#[test]
fn a_device_that_pauses_touches_nothing_and_loses_nothing() {
    let world = World::new();
    let (end, reasons) = world.live_controlled(world.driver(true), |control| {
        assert!(control.pause(), "before it is connected, too");
        let mut ring = world.offer_ring();
        world.state(S::INITIALISED);
        assert_eq!(world.mapped(), 0);
        control.resume();
        world.wait_for(S::CONNECTED);
        let page = world.host.grant(GUEST, GrantRef(RING));
        for round in 0..200 {
            world.ask_disk(&mut ring);
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            assert!(control.pause());
            let produced = page.peek(RSP_PROD);
            world.ask_disk(&mut ring);
            (0..5).for_each(|_| std::thread::yield_now());
            assert_eq!(page.peek(RSP_PROD), produced);
            control.resume();
            (0..2).for_each(|_| world.await_disk(&mut ring));
        }
        assert!(control.pause());
        world.state(S::CLOSED);
        std::thread::yield_now();
        assert_eq!(world.hear("state"), Some(S::CONNECTED.0.to_string()), "it looks again when it goes on");
        control.resume();
        world.wait_for(S::CLOSED);
        assert!(control.pause(), "it can be stopped while it pauses");
    });
    assert_eq!((end, reasons), (LifecycleEnd::Stopped, vec![]));
}

/// A class of devices that counts how often they were told to be quiet, and says that it was served since.
#[derive(Clone, Default)]
struct Counting {
    quiet: Arc<AtomicU32>,
    served: Arc<AtomicBool>,
}

impl Counting {
    fn quiet(&self) -> u32 {
        self.quiet.load(Ordering::SeqCst)
    }

    fn wait_until_served(&self) {
        wait_until(|| self.served.load(Ordering::SeqCst), "a look for work");
    }
}

impl Driver<FakeHost> for Counting {
    fn features(&self) -> Nodes {
        Nodes::new()
    }

    fn properties(&self) -> Nodes {
        Nodes::new()
    }

    fn connect(&mut self, _: &FrontEnd<'_, FakeHost>) -> Result<Box<dyn Device>, Disconnect> {
        Ok(Box::new(self.clone()))
    }
}

impl Device for Counting {
    fn serve(&mut self) -> Result<bool, Disconnect> {
        self.served.store(true, Ordering::SeqCst);
        Ok(false)
    }

    fn prepare_to_sleep(&mut self) -> Result<Sleep, Disconnect> {
        Ok(Sleep::UntilRung)
    }

    fn quiesce(&mut self) -> Result<(), Disconnect> {
        self.quiet.fetch_add(1, Ordering::SeqCst);
        self.served.store(false, Ordering::SeqCst);
        Ok(())
    }
}

/// What a device has begun is finished when its thread says that it pauses, whoever the thread is.
#[test]
fn a_device_is_quiet_before_its_thread_pauses() {
    let world = World::new();
    drop(world.driver(true)); // its nodes stay
    let device = Counting::default();
    world.live_controlled(device.clone(), |control| {
        world.wait_for(S::INIT_WAIT);
        world.state(S::INITIALISED);
        world.wait_for(S::CONNECTED);
        for pauses in 0..10 {
            assert!(control.pause());
            assert_eq!(device.quiet(), pauses + 1);
            control.resume();
        }
        device.wait_until_served();
    });
    assert_eq!(device.quiet(), 11, "and before it ends");
    let control = ServiceControl::new(Arc::default());
    let quiet = std::thread::scope(|scope| {
        scope.spawn(|| serve_as_told(&mut device.clone(), &control));
        let paused = control.pause();
        let quiet = device.quiet();
        control.stop();
        (paused, quiet)
    });
    assert_eq!(quiet, (true, 12));
    assert_eq!(device.quiet(), 13);
}

/// PV-GRUB closes with 6 alone, writes 1, and hands over to a kernel, which finds the back-end in 2.
#[test]
fn a_boot_loader_hands_over_to_a_kernel() {
    let world = World::new();
    let (_, reasons) = world.live(world.driver(true), || {
        for _ in 0..20 {
            world.wait_for(S::INIT_WAIT);
            let mut ring = world.offer_ring();
            world.state(S::INITIALISED);
            world.wait_for(S::CONNECTED);
            world.state(S::CONNECTED);
            world.use_disk(&mut ring);
            world.state(S::CLOSED);
            world.wait_for(S::CLOSED);
            world.state(S::INITIALISING);
        }
    });
    assert!(reasons.is_empty());
}

/// As network front-ends and Mini-OS do, to the end of its domain, which tells nobody.
#[test]
fn a_front_end_may_go_straight_to_connected_and_vanish() {
    let world = World::new();
    world.live(world.driver(true), || {
        world.wait_for(S::INIT_WAIT);
        let mut ring = world.offer_ring();
        world.state(S::CONNECTED);
        world.wait_for(S::CONNECTED);
        world.use_disk(&mut ring);
        world.store.remove(&world.address.front_end()).unwrap();
        world.wait_for(S::CLOSED);
    });
}

#[test]
fn a_device_nobody_wants_goes_when_its_front_end_lets_go() {
    let world = World::new();
    let (end, _) = world.live(world.driver(true), || {
        world.wait_for(S::INIT_WAIT);
        let mut ring = world.offer_ring();
        world.state(S::CONNECTED);
        world.wait_for(S::CONNECTED);
        withdraw(&world.store, &world.address).unwrap();
        world.wait_for(S::CLOSING);
        world.use_disk(&mut ring);
        world.state(S::CLOSED);
        wait_until(|| world.hear("state").is_none(), "its end");
    });
    assert_eq!(end, LifecycleEnd::Removed);
    assert!(world.store.directory("/local/domain/3/device/vbd").unwrap().is_empty());
}

/// Surprise removal: the nodes are gone while the device is in use.
#[test]
fn a_device_whose_nodes_are_removed_goes_at_once() {
    let world = World::new();
    let (end, _) = world.live(world.driver(true), || {
        world.wait_for(S::INIT_WAIT);
        world.offer_ring();
        world.state(S::CONNECTED);
        world.wait_for(S::CONNECTED);
        world.store.remove(&world.address.back_end()).unwrap();
        wait_until(|| world.host.open_ports() == 0, "its end");
        wait_until(|| world.store.read(&format!("{}/state", world.address.front_end())).is_err(), "its end");
    });
    assert_eq!(end, LifecycleEnd::Removed);
}

/// It is closed, its error is there to be read, and what was wrong can be put right.
#[test]
fn a_front_end_that_says_nonsense_is_told_so() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("ring-ref", "x")], "its node ring-ref is \"x\", which is no number in range"),
        (&[("ring-ref", "-1")], "its node ring-ref is \"-1\", which is no number in range"),
        (&[("ring-ref", "+20")], "its node ring-ref is \"+20\", which is no number in range"),
        (&[("ring-ref", "4294967296")], "its node ring-ref is \"4294967296\", which is no number in range"),
        (&[("ring-ref", "77")], "d3 grants nothing by GrantRef(77)"),
        (&[("event-channel", "")], "its node event-channel is \"\", which is no number in range"),
        (&[("event-channel", "8")], "d3 offers no EventPort(8)"),
        (&[("ring-page-order", "5")], "its ring is said to have 32 pages"),
        (&[("ring-page-order", "4000000000")], "its ring is said to have 4294967295 pages"),
        (&[("ring-page-order", "1")], "it has no node ring-ref0"),
        (&[("num-ring-pages", "3")], "its ring is said to have 3 pages"),
        (
            &[("protocol", "x86_32-abi")],
            "its requests are laid out as \"x86_32-abi\"; \"x86_64-abi\" is served",
        ),
    ];
    let world = World::new();
    let (_, reasons) = world.live(world.driver(true), || {
        for (nodes, expected) in cases {
            world.wait_for(S::INIT_WAIT);
            world.offer_ring();
            nodes.iter().for_each(|(name, value)| world.say(name, value));
            world.state(S::INITIALISED);
            world.wait_for(S::CLOSING);
            assert!(world.hear("error").unwrap().ends_with(expected), "{expected}");
            for (name, _) in *nodes {
                world.store.remove(&format!("{}/{name}", world.address.front_end())).unwrap();
            }
            world.state(S::INITIALISING);
            world.wait_for(S::INIT_WAIT);
            let mut ring = world.offer_ring();
            world.state(S::INITIALISED);
            world.wait_for(S::CONNECTED);
            world.use_disk(&mut ring);
            world.state(S::INITIALISING);
        }
    });
    assert_eq!(reasons.len(), cases.len());
}

/// Its ring lies while it is served: that connection ends, with the reason, and the next one may come.
#[test]
fn a_front_end_that_breaks_the_protocol_is_closed_with_the_reason() {
    let world = World::new();
    let (_, reasons) = world.live(world.driver(true), || {
        world.wait_for(S::INIT_WAIT);
        world.offer_ring();
        world.state(S::INITIALISED);
        world.wait_for(S::CONNECTED);
        crate::host::Page::store_u32(&world.host.grant(GUEST, GrantRef(RING)), REQ_PROD, 1000).unwrap();
        world.host.notify_backend(GUEST, PORT);
        world.wait_for(S::CLOSING);
        assert!(world.hear("error").unwrap().contains("produced 1000, consumed 0"));
        assert_eq!((world.mapped(), world.host.open_ports()), (0, 0), "it is not served any more");
        world.state(S::CLOSED);
        world.wait_for(S::CLOSED);
        world.state(S::INITIALISING);
        world.wait_for(S::INIT_WAIT);
    });
    assert_eq!(reasons.len(), 1);
}

/// A ring of several pages, told in either way.
#[test]
fn a_ring_may_have_several_pages() {
    for (name, value) in [("ring-page-order", "2"), ("num-ring-pages", "4")] {
        let world = World::new();
        world.live(world.driver(true), || {
            world.wait_for(S::INIT_WAIT);
            let pages: Vec<_> =
                (0..4).map(|page| world.host.grant(GUEST, GrantRef(RING + 4 + page))).collect();
            let mut ring = FrontRing::initialise(Pages::new(pages), 4 * 4096).unwrap();
            (0..4).for_each(|page| world.say(&format!("ring-ref{page}"), &(RING + 4 + page).to_string()));
            world.say("event-channel", &PORT.0.to_string());
            world.say(name, value);
            world.state(S::INITIALISED);
            world.wait_for(S::CONNECTED);
            world.use_disk(&mut ring);
        });
    }
}

/// Nothing it writes into its own nodes, in whatever order and speed, does more than close the device.
#[test]
fn states_and_nodes_that_flicker_do_no_harm() {
    let world = World::new();
    let (end, _) = world.live(world.driver(true), || {
        world.offer_ring();
        for round in 0..3000u32 {
            world.state(S(round.wrapping_mul(2_654_435_761) >> 16 & 7));
            if round % 7 == 0 {
                world.say("ring-ref", ["20", "x", "99", ""][round as usize / 7 % 4]);
            }
        }
        world.state(S::CLOSED);
        world.say("ring-ref", &RING.to_string());
        world.state(S::INITIALISING);
        world.wait_for(S::INIT_WAIT);
        let mut ring = world.offer_ring();
        world.state(S::INITIALISED);
        world.wait_for(S::CONNECTED);
        world.use_disk(&mut ring);
    });
    assert_eq!(end, LifecycleEnd::Stopped);
}

#[test]
fn disks_have_the_numbers_that_front_ends_know() {
    assert_eq!([0, 1, 15, 16].map(|index| address(GUEST, index).number), [51712, 51728, 51952, 268_439_552]);
    assert_eq!(address(GUEST, 0).front_end(), "/local/domain/3/device/vbd/51712");
    assert_eq!(address(GUEST, 0).back_end(), "/local/domain/0/backend/vbd/3/51712");
}
