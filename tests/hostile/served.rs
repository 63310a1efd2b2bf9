//! A machine whose guests have a store and disks. Beside the canary, which needs nobody, lives a neighbour that needs
//! both: it asks for its own name and reads its own disk without end, and runs into `ud2` where either is not what it was.

use crate::support::check;
use crate::tiny_guest::{
    Code, Condition, Conversation, DATA_PAGE, DATA_REF, Guest, Host, REPLIES, Reg, SCRATCH,
};
use crate::tiny_guest::{STORE_PORT, request, segment, store_ring};
use backends::Disconnect;
use backends::block::Disk;
use backends::block::image::MemoryImage;
use backends::xenstore::StoreHandle;
use hypervisor::host_domain::{HostDomain, Service, StoreNodes, create_store_nodes, start_disk, start_store};
use libtest_mimic::Failed;
use pv_abi::PAGE_SIZE;
use pv_abi::io::block::Operation;
use pv_abi::io::xenstore::{MessageType, RingError};
use std::sync::{Arc, Mutex};

/// How often the neighbour has got both.
const ROUNDS: u64 = SCRATCH + 0x800;
/// What its disk begins with.
const SECTOR: &[u8; 8] = b"neighbor";
/// What it keeps to itself in the store, below its own nodes.
pub const SECRET: &str = "data/secret";

/// A machine, its store, and a neighbour.
pub struct Served {
    /// The machine, with its canary.
    pub host: Host,
    /// The store, which the neighbour and every [`ServedGuest`] use.
    pub store: StoreHandle,
    /// The guest that hostile ones must not disturb.
    pub neighbour: Guest,
    services: (Service, Service),
}

/// A guest, and what it is served with.
pub struct ServedGuest {
    /// The guest itself, which does not run before a test starts it.
    pub guest: Guest,
    store: Service,
    disk: Option<Service>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Served {
    /// Starts them, and waits until the neighbour gets what it needs.
    pub fn new() -> Result<Self, Failed> {
        let (host, store) = (Host::new()?, StoreHandle::default());
        let neighbour = host.build(&neighbour())?;
        neighbour.lend_to_disk()?;
        let disk = disk(Arc::new(MemoryImage::new(8 * 512, SECTOR)?), true);
        let services =
            (serve_store(&host, &store, &neighbour)?, serve_disk(&host, &store, &neighbour, disk, |_| {})?);
        neighbour.start()?;
        let served = Self { host, store, neighbour, services };
        served.neighbour_goes_on()?;
        Ok(served)
    }

    /// A guest with a way to the store.
    pub fn build(&self, code: &Code) -> Result<ServedGuest, Failed> {
        let guest = self.host.build(code)?;
        let store = serve_store(&self.host, &self.store, &guest)?;
        Ok(ServedGuest { guest, store, disk: None, failures: Arc::default() })
    }

    /// A guest with a disk, too, that lends its back-end what it needs.
    pub fn build_with_disk(&self, code: &Code, disk: Arc<Disk>) -> Result<ServedGuest, Failed> {
        let mut served = self.build(code)?;
        served.guest.lend_to_disk()?;
        let failures = Arc::clone(&served.failures);
        let failed = move |reason: String| failures.lock().expect("no panic").push(reason);
        served.disk = Some(serve_disk(&self.host, &self.store, &served.guest, disk, failed)?);
        Ok(served)
    }

    /// Ends what a guest is served with, and the guest; whether the store had let go of it before, and why it says so in
    /// the ring's page.
    pub fn end(&self, served: ServedGuest) -> Result<(bool, RingError), Failed> {
        let ServedGuest { guest, store, disk, .. } = served;
        disk.map(Service::finish);
        let let_go = matches!(store.finish(), Some(Err(Disconnect::Protocol(_))));
        let page = guest.mfn(guest.built.start_info + PAGE_SIZE as u64);
        let why = guest.memory().load_u32(page, store_ring::ERROR as usize)?;
        guest.destroy()?;
        self.store.release(guest.domain.id());
        self.store.remove(&nodes_of(&guest))?;
        Ok((let_go, RingError(why)))
    }

    /// Waits until the neighbour has got both, twice. It must not have ended.
    pub fn neighbour_goes_on(&self) -> Result<(), Failed> {
        let before = self.neighbour.peek(ROUNDS);
        let done = self.neighbour.wait_for(|| self.neighbour.peek(ROUNDS) >= before + 2);
        done.map_err(|error| format!("the neighbour: {error:?}").into())
    }

    /// The neighbour gets what it needs, nobody has written its secret, and without both it and the canary every frame
    /// is free and every count right.
    pub fn finish(self) -> Result<(), Failed> {
        self.neighbour_goes_on()?;
        let secret = self.store.read(&format!("{}/{SECRET}", nodes_of(&self.neighbour)))?;
        check(secret == b"secret", || format!("the neighbour's secret is {secret:?}"))?;
        self.neighbour.destroy()?;
        self.services.1.finish();
        self.services.0.finish();
        self.host.finish()
    }
}

/// The path in the store below which a guest's own nodes are.
pub fn nodes_of(guest: &Guest) -> String {
    format!("/local/domain/{}", guest.domain.id().0)
}

/// A disk that back-ends serve from an image; read-only unless `writable`.
pub fn disk(image: Arc<dyn backends::block::image::Image>, writable: bool) -> Arc<Disk> {
    Arc::new(Disk::new("disk", image, writable))
}

fn host_domain(host: &Host, guest: &Guest) -> Arc<HostDomain> {
    Arc::new(HostDomain::new(host.hypervisor.services().mmu.clone(), guest.domain.clone()))
}

fn serve_store(host: &Host, store: &StoreHandle, guest: &Guest) -> Result<Service, Failed> {
    let (name, console_port) = ("tiny", crate::tiny_guest::CONSOLE_PORT);
    let (pages, vcpus, domain) = (guest.frames().len() as u64, 1, guest.domain.id());
    create_store_nodes(
        store,
        &StoreNodes { domain, name, pages, vcpus, console_port, store_port: STORE_PORT },
    )?;
    Ok(start_store(&host_domain(host, guest), STORE_PORT, store, |_| {})?)
}

fn serve_disk(
    host: &Host,
    store: &StoreHandle,
    guest: &Guest,
    disk: Arc<Disk>,
    failed: impl Fn(String) + Send + 'static,
) -> Result<Service, Failed> {
    let failed = move |reason: &Disconnect| failed(reason.to_string());
    Ok(start_disk(host_domain(host, guest), store, 0, disk, failed)?)
}

fn neighbour() -> Code {
    let mut code = Code::default();
    let mut secret = Conversation::default();
    secret.ask(MessageType::WRITE, &format!("{SECRET}|secret"), "OK|");
    code.find_store().connect_disk().exchange(&secret);
    let mut bad = 0;
    code.unless(Condition::Always, |code| {
        bad = code.here();
        code.asm(|a| a.ud2());
    });
    let again = code.here();
    let mut needs = Conversation::default();
    needs.ask(MessageType::WRITE, "data/round|x", "OK|").ask(MessageType::READ, "name|", "tiny");
    let (due, sector) = (code.data(needs.replies()), code.data(SECTOR));
    code.exchange(&needs)
        .mov(Reg::Rsi, REPLIES)
        .mov(Reg::Rdi, due)
        .mov(Reg::Rcx, needs.replies().len() as u64);
    code.asm(|a| a.repe().cmpsb()).jump(Condition::NotZero, bad);
    code.set(DATA_PAGE, 0);
    code.ask_disk(&request(Operation::READ, 0, &[segment(DATA_REF, 0, 0)])).await_disk();
    code.load(Reg::Rax, DATA_PAGE).compare(sector).jump(Condition::NotZero, bad);
    code.increment(ROUNDS).jump(Condition::Always, again);
    code
}

impl ServedGuest {
    /// Why its disk was disconnected, each time.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no panic").clone()
    }

    /// Waits until it has parked, and says what came from the store if it does not.
    pub fn wait_until_parked(&self, talk: &Conversation) -> Result<(), Failed> {
        let parked = self.guest.wait_until_parked();
        let complaint = talk.complaint(&self.guest.peek_bytes(REPLIES, talk.due()));
        match (parked, complaint) {
            (Err(error), complaint) => Err(format!("{error:?}; {complaint:?}").into()),
            (Ok(()), Some(complaint)) => Err(complaint.into()),
            (Ok(()), None) => Ok(()),
        }
    }
}
