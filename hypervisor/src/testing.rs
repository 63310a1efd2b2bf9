//! What tests of the layers above the machine do all the time: a fake machine, and guests on it with memory mapped
//! but no code.

use crate::clock::{Clock, FakeClock, HostClock};
use crate::control::{DomainConfig, Hypervisor, PcpuParts, create, start};
use crate::cpuid::of_no_processor;
use crate::domain::{Console, Domain};
use crate::error::Failure;
use crate::hypercall::{Outcome, dispatch};
use crate::machine::fake::{FakeMachine, FakePcpu, Scripts};
use crate::machine::{Context, Exit, Kick};
use crate::paging::{Budget, Mmu, Progress};
use crate::run_loop::PcpuLoop;
use crate::services::Services;
use crate::vcpu::{StartState, Vcpu, VcpuHandle};
use pv_abi::grant_table::GrantEntry;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Errno, Mfn};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing_subscriber::layer::{self, Layer, SubscriberExt};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Address of a guest's first kernel page.
pub const BASE: u64 = 0xffff_ffff_8000_0000;
/// Address of its first user page.
pub const USER_BASE: u64 = 0x0040_0000;
/// Pages that its kernel has mapped, all writable.
pub const PAGES: u64 = 32;
/// Pages that its user mode has mapped.
pub const USER_PAGES: u64 = 2;
/// What says that an entry of a grant table is in use.
pub const MARKS: u64 = (GrantEntry::READING | GrantEntry::WRITING) as u64;
/// Where its kernel's stack starts.
pub const STACK: u64 = BASE + 16 * 4096;

/// Keeps what a guest writes, and has something for it to read.
#[derive(Debug)]
pub struct TestConsole {
    pub written: Mutex<Vec<u8>>,
    pub input: Mutex<Vec<u8>>,
    /// Bytes that `written` has room for.
    pub room: AtomicUsize,
    /// Room that comes directly after a write has found too little.
    pub late_room: AtomicUsize,
}

impl Default for TestConsole {
    fn default() -> Self {
        let (room, late_room) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        Self { written: Mutex::default(), input: Mutex::default(), room, late_room }
    }
}

impl Console for TestConsole {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut written = self.written.lock().unwrap();
        let taken = bytes.len().min(self.room.load(Ordering::SeqCst).saturating_sub(written.len()));
        written.extend_from_slice(&bytes[..taken]);
        if taken < bytes.len() {
            self.room.fetch_add(self.late_room.swap(0, Ordering::SeqCst), Ordering::SeqCst);
        }
        taken
    }

    fn has_room(&self) -> bool {
        self.written.lock().unwrap().len() < self.room.load(Ordering::SeqCst)
    }

    fn read(&self, into: &mut [u8]) -> usize {
        let mut input = self.input.lock().unwrap();
        let length = input.len().min(into.len());
        into[..length].copy_from_slice(&input[..length]);
        input.drain(..length);
        length
    }
}

/// A machine with its hypervisor, without threads.
pub struct World {
    pub machine: FakeMachine,
    pub services: Arc<Services>,
    pub clock: Arc<FakeClock>,
    pub scripts: Scripts,
    pub pcpus: Vec<PcpuLoop>,
}

/// A guest on the fake machine, with the frames that tests name.
pub struct Guest {
    pub domain: Arc<Domain>,
    pub console: Arc<TestConsole>,
    pub root: Mfn,
    pub user_root: Mfn,
    pub pages: Vec<Mfn>,
    pub user_pages: Vec<Mfn>,
    pub l1: Mfn,
}

fn mmu(machine: &FakeMachine) -> Arc<Mmu> {
    Arc::new(Mmu::new(machine.memory.clone(), machine.layout.clone(), machine.translations.clone()))
}

impl World {
    pub fn new() -> Self {
        Self::with_pcpus(1)
    }

    pub fn with_pcpus(count: usize) -> Self {
        Self::build(count, true)
    }

    /// On a machine that raises no #NM, as software KVM.
    pub fn without_nm() -> Self {
        Self::build(1, false)
    }

    fn build(count: usize, raises_nm: bool) -> Self {
        let machine = FakeMachine::new(512);
        let (clock, scripts) = (Arc::new(FakeClock::default()), Scripts::default());
        clock.advance(1_000_000);
        let pcpus: Vec<_> =
            (0..count).map(|index| FakePcpu::new(index, scripts.clone(), clock.clone())).collect();
        let kicks = pcpus.iter().map(|pcpu| -> Arc<dyn Kick> { pcpu.kick() }).collect();
        let services = Services::new(
            mmu(&machine),
            machine.doorbells.clone(),
            kicks,
            clock.clone(),
            Arc::new(of_no_processor()),
            raises_nm,
        );
        let services = Arc::new(services);
        let pcpus = pcpus.into_iter().enumerate();
        let pcpus =
            pcpus.map(|(index, pcpu)| PcpuLoop::new(index, Box::new(pcpu), services.clone())).collect();
        Self { machine, services, clock, scripts, pcpus }
    }

    /// A guest that has started but not run. When it has played its script, it yields all the time.
    pub fn guest(&self) -> Guest {
        let guest = Guest::build(&self.services);
        self.scripts.forever(guest.identity(), |context| syscall(context, 29, &[0]));
        start(&self.services, &guest.domain, &guest.start_state()).unwrap();
        guest
    }

    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Adds to what the guest does when it runs.
    pub fn script(&self, guest: &Guest, action: impl FnMut(&mut Context) -> Exit + Send + 'static) {
        self.scripts.push(guest.identity(), action);
    }

    /// Acts on the guest's vCPU, as its pcpu's thread would.
    pub fn on_vcpu<R>(&self, guest: &Guest, act: impl FnOnce(&VcpuHandle, &mut Vcpu) -> R) -> R {
        let handle = &guest.domain.vcpus()[0];
        act(handle, &mut handle.state().lock())
    }

    /// Makes a hypercall to its end.
    pub fn outcome(&self, guest: &Guest, number: u64, arguments: &[u64]) -> Result<Outcome, Failure> {
        self.on_vcpu(guest, |handle, vcpu| {
            syscall(&mut vcpu.context, number, arguments);
            let mut outcome = dispatch(&self.services, &guest.domain, handle, vcpu, true)?;
            while outcome == Outcome::Preempted {
                outcome = crate::hypercall::resume(&self.services, &guest.domain, handle, vcpu).unwrap()?;
            }
            Ok(outcome)
        })
    }

    /// Makes a hypercall that returns; what it returned.
    pub fn call(&self, guest: &Guest, number: u64, arguments: &[u64]) -> Result<u64, Errno> {
        match self.outcome(guest, number, arguments).unwrap() {
            Outcome::Done(value) => Errno::from_return(value),
            other => panic!("hypercall {number}: {other:?}"),
        }
    }

    /// Writes into the guest's kernel memory.
    pub fn poke<T: IntoBytes + Immutable + ?Sized>(&self, guest: &Guest, address: u64, value: &T) {
        let mmu = &self.services.mmu;
        mmu.copy_to_guest(guest.domain.id(), guest.root, address, value.as_bytes()).unwrap();
    }

    /// Reads the guest's kernel memory.
    pub fn peek<T: FromBytes + IntoBytes>(&self, guest: &Guest, address: u64) -> T {
        self.services.mmu.read(guest.domain.id(), guest.root, address).unwrap()
    }

    /// Runs pcpu `index` for so many turns.
    pub fn turns(&mut self, index: usize, count: usize) {
        (0..count).for_each(|_| self.pcpus[index].turn_for_test());
    }

    /// All guests die, and everything must come back.
    pub fn check_end(&mut self, guests: Vec<Guest>) {
        self.end(guests);
        assert_eq!(self.services.mmu.audit(&[]), Vec::<String>::new());
    }

    /// Guests die, and everything that they have must come back.
    pub fn end(&mut self, guests: Vec<Guest>) {
        self.destroy(&guests);
        for guest in guests {
            assert_eq!(self.services.mmu.frames_of(guest.domain.id()), 0);
        }
    }

    /// Ends guests from outside, takes their vCPUs off the pcpus, and takes the domains apart.
    pub fn destroy(&mut self, guests: &[Guest]) {
        for guest in guests {
            guest.domain.life().end(crate::domain::End::Destroyed);
            self.services.scheduler.evict(guest.domain.id());
        }
        // Each turn takes one off, and one turn may be a bystander's.
        let vcpus: usize = guests.iter().map(|guest| guest.domain.vcpus().len()).sum();
        for index in 0..self.pcpus.len() {
            self.turns(index, vcpus + 1);
        }
        crate::control::teardown::reap_once(&self.services);
    }
}

impl Guest {
    /// A domain with memory, not started.
    pub fn build(services: &Services) -> Self {
        let console = Arc::new(TestConsole::default());
        let config =
            DomainConfig { name: "test".into(), vcpus: 4, maximum_pages: 64, console: console.clone() };
        let domain = create(services, config).unwrap();
        let mmu = &services.mmu;
        let page = || mmu.allocate(domain.id()).unwrap();
        let flags = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER;
        let table = |entries: &[(usize, Mfn)]| {
            let table = page();
            mmu.memory().zero(table).unwrap();
            for &(index, mfn) in entries {
                mmu.memory().exchange_entry(table, index, Pte::new(mfn, flags), 0).unwrap();
            }
            table
        };
        let pages: Vec<Mfn> = (0..PAGES).map(|_| page()).collect();
        let user_pages: Vec<Mfn> = (0..USER_PAGES).map(|_| page()).collect();
        let tree = |base: u64, pages: &[Mfn]| {
            let entries: Vec<_> = pages
                .iter()
                .copied()
                .enumerate()
                .map(|(at, mfn)| (Level::L1.index(base) + at, mfn))
                .collect();
            let l1 = table(&entries);
            let l2 = table(&[(Level::L2.index(base), l1)]);
            let l3 = table(&[(Level::L3.index(base), l2)]);
            let l4 = table(&[(Level::L4.index(base), l3)]);
            let pinned = mmu.pin(domain.id(), l4, Level::L4, &mut Budget::unlimited()).unwrap();
            assert_eq!(pinned, Progress::Done);
            (l4, l1)
        };
        let (root, l1) = tree(BASE, &pages);
        let (user_root, _) = tree(USER_BASE, &user_pages);
        Self { domain, console, root, user_root, pages, user_pages, l1 }
    }

    pub fn start_state(&self) -> StartState {
        StartState { root: self.root, entry: BASE, stack: STACK, start_info: BASE + 4096 }
    }

    pub fn identity(&self) -> u64 {
        self.domain.vcpus()[0].state().lock().context.identity
    }
}

/// A vCPU that a mad guest may have left anywhere goes on in its kernel.
pub fn recover(world: &World, guest: &Guest) {
    world.on_vcpu(guest, |_, vcpu| {
        vcpu.continuation = None;
        if vcpu.mode == crate::vcpu::Mode::User {
            vcpu.enter_kernel_for_test();
        }
        vcpu.context.registers.rsp = STACK;
    });
}

/// A hypercall in a script.
pub fn syscall(context: &mut Context, number: u64, arguments: &[u64]) -> Exit {
    let mut words = [0; 6];
    words[..arguments.len()].copy_from_slice(arguments);
    let r = &mut context.registers;
    r.rax = number;
    [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = words;
    Exit::Syscall
}

/// An address in page `page` of a guest's kernel, away from its start.
pub const fn page(page: u64) -> u64 {
    BASE + page * 4096
}

/// A machine with its hypervisor, threads and all.
pub struct Threads {
    pub hypervisor: Hypervisor,
    pub scripts: Scripts,
}

impl Threads {
    pub fn new(pcpus: usize) -> Self {
        let machine = FakeMachine::new(512);
        let (clock, scripts) = (Arc::new(HostClock::new(1_000_000)), Scripts::default());
        let pcpus = (0..pcpus)
            .map(|index| FakePcpu::new(index, scripts.clone(), clock.clone()))
            .map(|pcpu| -> PcpuParts {
                let kick = pcpu.kick();
                (Box::new(pcpu), kick)
            })
            .collect();
        let hypervisor = Hypervisor::new(
            mmu(&machine),
            machine.doorbells.clone(),
            pcpus,
            clock,
            Arc::new(of_no_processor()),
            true,
        )
        .unwrap();
        Self { hypervisor, scripts }
    }

    /// A guest that has not started. When it has played its script, it loops.
    pub fn guest(&self) -> Guest {
        Guest::build(self.hypervisor.services())
    }

    pub fn start(&self, guest: &Guest) {
        self.hypervisor.start(&guest.domain, &guest.start_state()).unwrap();
    }

    /// Writes into a guest's kernel memory.
    pub fn poke<T: IntoBytes + Immutable>(&self, guest: &Guest, address: u64, value: &T) {
        let mmu = &self.hypervisor.services().mmu;
        mmu.write(guest.domain.id(), guest.root, address, value).unwrap();
    }
}

/// What nothing takes, on a busy host either: a test that waits so long has failed.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until something has happened.
pub fn wait_until(happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < LIMIT, "it never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

thread_local! {
    /// Whose memory changes when it was read, and the state of a generator.
    static CHANGES: Cell<Option<(DomId, u64)>> = const { Cell::new(None) };
    /// Entries of grant tables that others than that guest have taken back.
    static TAKEN_BACK: RefCell<BTreeSet<(Mfn, usize)>> = const { RefCell::new(BTreeSet::new()) };
}

/// From now on (or, with nothing, no longer) a third of what this thread reads of a guest, and of entries of grant
/// tables, is something else directly afterwards, as if another vCPU had written there. The seed is not 0.
pub fn change_what_is_read(guest: Option<(DomId, u64)>) {
    CHANGES.set(guest);
}

/// The generator's next state, where a change is due: after one read in three.
fn change_is_due(whose: DomId, mut seed: u64) -> Option<u64> {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    CHANGES.set(Some((whose, seed)));
    seed.is_multiple_of(3).then_some(seed)
}

/// Nearly the same as before, or anything.
const fn changed(old: u32, seed: u64) -> u32 {
    if seed & 1 << 40 == 0 { old ^ 1 << (seed >> 32 & 31) } else { (seed >> 20) as u32 }
}

/// `length` bytes at `address` were just read.
pub fn was_read(mmu: &Mmu, domain: DomId, root: Mfn, address: u64, length: usize) {
    let Some((_, seed)) = CHANGES.get().filter(|&(whose, _)| whose == domain) else { return };
    let Some(seed) = change_is_due(domain, seed).filter(|_| length >= 4) else { return };
    let changes = CHANGES.take(); // what is read here stays
    let at = address + (seed >> 8) % (length as u64 - 3);
    let old = mmu.read::<u32>(domain, root, at).unwrap_or_default();
    let _ = mmu.write(domain, root, at, &changed(old, seed));
    CHANGES.set(changes);
}

/// An entry of a grant table was just read, and is about to be marked. In its own table the guest whose memory changes
/// writes something else there; everybody else takes back what is not in use yet.
pub fn entry_was_read(mmu: &Mmu, table: Mfn, offset: usize) {
    let Some((whose, seed)) = CHANGES.get() else { return };
    let Some(seed) = change_is_due(whose, seed) else { return };
    let memory = mmu.memory();
    if mmu.owner(table) == Some(whose) {
        let at = offset + 4 * (seed >> 8 & 1) as usize;
        let old = memory.load_u32(table, at).unwrap();
        memory.store_u32(table, at, changed(old, seed)).unwrap();
    } else if memory.load_u64(table, offset).unwrap() & MARKS == 0 {
        memory.fetch_and_u64(table, offset, !0xffff).unwrap();
        TAKEN_BACK.with_borrow_mut(|entries| entries.insert((table, offset)));
    }
}

/// Whether an entry was taken back like that.
pub fn was_taken_back(table: Mfn, offset: usize) -> bool {
    TAKEN_BACK.with_borrow(|entries| entries.contains(&(table, offset)))
}

/// The entry is valid again, and does not count as taken back any more.
pub fn lends_again(table: Mfn, offset: usize) {
    TAKEN_BACK.with_borrow_mut(|entries| entries.remove(&(table, offset)));
}

thread_local! {
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// What others do, once, when this thread has looked at a frame's word and not changed it yet.
pub fn meanwhile(act: impl FnOnce() + 'static) {
    MEANWHILE.set(Some(Box::new(act)));
}

/// As [`meanwhile`], but at each look and not once.
pub fn at_each_look(act: Rc<dyn Fn()>) {
    meanwhile(move || {
        act();
        at_each_look(act);
    });
}

/// A frame's word was looked at, and is about to be changed.
pub fn was_looked_at() {
    if let Some(act) = MEANWHILE.take() {
        act();
    }
}

/// Keeps the messages of defects.
#[derive(Clone, Default)]
struct Defects(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Defects {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        if event.metadata().target() == crate::defect::TARGET {
            event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                if field.name() == "message" {
                    self.0.lock().unwrap().push(format!("{value:?}"));
                }
            });
        }
    }
}

/// What `act` tells of defects, message by message. A panic that follows one in debug builds ends `act`, and nothing else.
pub fn defects_told(act: impl FnOnce()) -> Vec<String> {
    let defects = Defects::default();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(defects.clone()), || {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    });
    std::mem::take(&mut *defects.0.lock().unwrap())
}
