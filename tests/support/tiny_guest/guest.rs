//! A domain that runs a tiny kernel, and what a test sees of it.

use super::code::{Code, PARKED};
use crate::support::check;
use backends::bell::Bell;
use backends::console::Input;
use backends::port::Port;
use hypervisor::builder::{BuiltDomain, KernelImage, Plan, Wishes};
use hypervisor::control::{DomainConfig, FilledDomain, Hypervisor, fill};
use hypervisor::domain::{Console, Domain, DomainEnd, End};
use hypervisor::host_domain::{HostDomain, Service, start_console};
use hypervisor::machine::MachineMemory;
use hypervisor::paging::Mmu;
use hypervisor::vcpu::StartState;
use libtest_mimic::Failed;
use pv_abi::grant_table::GrantEntry;
use pv_abi::page_table::Level;
use pv_abi::sched::ShutdownReason;
use pv_abi::{DomId, EventPort, Mfn};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

/// vCPUs of a guest, of which the first one runs until it starts others.
pub const VCPUS: u32 = 4;
/// Pages of a guest: what its initial mapping needs.
const PAGES: u64 = 1024;
/// The ports below are those that a guest starts with: its store's and its console's.
pub const FIRST_OWN_PORT: u32 = CONSOLE_PORT.0 + 1;
/// The port of its store.
pub const STORE_PORT: EventPort = EventPort(1);
/// The port of its console.
pub const CONSOLE_PORT: EventPort = EventPort(2);
/// Longer than anything takes here, on a slow host too.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn failed(error: impl std::fmt::Display) -> Failed {
    error.to_string().into()
}

/// What a guest said: 8 bytes a word. There is an end to the host's patience.
#[derive(Debug, Default)]
struct Said(Mutex<Vec<u8>>);

impl Console for Said {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < 1 << 20 {
            said.extend_from_slice(bytes);
        }
        bytes.len()
    }
}

/// A back-end that does nothing but listen; it lets go of the port when it is dropped.
pub struct Ear {
    bell: Arc<Bell>,
    _port: Port<HostDomain>,
}

impl Ear {
    /// Whether its bell was rung since the last time.
    pub fn heard(&self) -> bool {
        self.bell.listen_for(Duration::ZERO)
    }
}

/// A domain that runs a tiny kernel.
pub struct Guest {
    hypervisor: Arc<Hypervisor>,
    /// The domain, as the hypervisor has it.
    pub domain: Arc<Domain>,
    /// What the builder has made: where the kernel starts, and where its rings are.
    pub built: BuiltDomain,
    /// Where everything of it is.
    pub plan: Plan,
    said: Arc<Said>,
    mfns: Vec<Mfn>,
    /// A canary's frames as they were built.
    pub(super) original: Vec<[u8; 4096]>,
}

impl Guest {
    pub(super) fn build(
        hypervisor: &Arc<Hypervisor>,
        code: &Code,
        console: Option<Arc<dyn Console>>,
    ) -> Result<Self, Failed> {
        let file = code.image();
        let image = KernelImage::parse(&file).map_err(failed)?;
        let wishes = Wishes { pages: PAGES, ..Wishes::default() };
        let plan = Plan::new(&image, &wishes).map_err(failed)?;
        let said = Arc::new(Said::default());
        let config = DomainConfig {
            name: "tiny".into(),
            vcpus: VCPUS,
            maximum_pages: PAGES,
            console: console.unwrap_or(said.clone()),
        };
        let domain = hypervisor.create_domain(config).map_err(failed)?;
        let mmu = &hypervisor.services().mmu;
        let filled = fill(hypervisor.services(), &domain, &image, &[], &plan).map_err(failed)?;
        let FilledDomain { built, console_port, .. } = filled;
        if console_port != CONSOLE_PORT {
            return Err(format!("the console has another port: {console_port:?}").into());
        }
        let p2m = |pfn: u64| mmu.read(domain.id(), built.root, plan.p2m_address + pfn * 8);
        let mfns: Vec<Mfn> = (0..PAGES).map(p2m).collect::<Result<_, _>>().map_err(failed)?;
        let hypervisor = hypervisor.clone();
        Ok(Self { hypervisor, domain, built, plan, said, mfns, original: Vec::new() })
    }

    fn mmu(&self) -> &Mmu {
        &self.hypervisor.services().mmu
    }

    /// The memory of the machine, that of all domains.
    pub fn memory(&self) -> &MachineMemory {
        self.mmu().memory()
    }

    /// A back-end of its console, which keeps nothing of what the guest writes.
    pub fn connect_console(&self) -> Result<Service, Failed> {
        let back_end = Arc::new(HostDomain::new(self.hypervisor.services().mmu.clone(), self.domain.clone()));
        start_console(&back_end, CONSOLE_PORT, Arc::default(), Vec::new(), |_| {}).map_err(failed)
    }

    /// A back-end of one of its ports, which does nothing but listen.
    pub fn listen(&self, port: EventPort) -> Result<Ear, Failed> {
        let host = Arc::new(HostDomain::new(self.hypervisor.services().mmu.clone(), self.domain.clone()));
        let bell = Arc::new(Bell::with_descriptor()?);
        let port = Port::bind(&host, self.domain.id(), port, bell.clone()).map_err(failed)?;
        let ear = Ear { bell, _port: port };
        check(ear.heard(), || "a new connection starts with an event".into())?;
        Ok(ear)
    }

    /// How often it left the machine in that way.
    pub fn exits(&self, kind: &str) -> u64 {
        let exits = self.domain.statistics().snapshot().exits;
        exits.iter().find(|(name, _)| *name == kind).expect("a kind of exits").1
    }

    /// Starts the guest's first vCPU, at the kernel's entry.
    pub fn start(&self) -> Result<(), Failed> {
        let BuiltDomain { root, entry, stack, start_info, .. } = self.built;
        self.hypervisor.start(&self.domain, &StartState { root, entry, stack, start_info }).map_err(failed)
    }

    /// Waits for the guest's end. It is an error where that does not come within [`LIMIT`].
    pub fn wait(&self) -> Result<End, Failed> {
        let end: Option<DomainEnd> = self.hypervisor.wait_for(&self.domain, LIMIT);
        end.map(|end| end.end).ok_or_else(|| "the guest does not end".into())
    }

    /// Waits for its end, but not for longer than `limit`, and ends it then.
    pub fn wait_or_destroy(&self, limit: Duration) -> Result<End, Failed> {
        match self.hypervisor.wait_for(&self.domain, limit) {
            Some(end) => Ok(end.end),
            None => self.destroy(),
        }
    }

    /// Ends the guest from outside, whatever it does, and waits for that.
    pub fn destroy(&self) -> Result<End, Failed> {
        self.hypervisor.destroy(&self.domain);
        self.wait()
    }

    /// The words that it said.
    pub fn said(&self) -> Vec<u64> {
        let said = self.said.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.chunks_exact(8).filter_map(|word| u64::read_from_bytes(word).ok()).collect()
    }

    /// Waits for something about it, which must not end meanwhile.
    pub fn wait_for(&self, done: impl Fn() -> bool) -> Result<(), Failed> {
        let start = Instant::now();
        while !done() {
            if self.domain.life().has_ended() {
                return Err(format!("the guest has ended: {}", self.wait()?).into());
            }
            if start.elapsed() > LIMIT {
                return Err("the guest makes no progress".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits until it has come to [`Code::park`].
    pub fn wait_until_parked(&self) -> Result<(), Failed> {
        self.wait_for(|| self.peek(PARKED) == 1)
    }

    /// The guest's machine frames, by pfn.
    pub fn frames(&self) -> &[Mfn] {
        &self.mfns
    }

    /// The frame that an address of its initial mapping lies in.
    pub fn mfn(&self, address: u64) -> Mfn {
        self.mfns[((address - self.plan.virt_base) >> 12) as usize]
    }

    /// The pfn of one of its frames.
    pub fn pfn(&self, mfn: Mfn) -> u64 {
        self.mfns.iter().position(|&own| own == mfn).expect("a frame of its own") as u64
    }

    /// The frame of its table of that level, for an address, under the root that it started with.
    pub fn table(&self, level: Level, address: u64) -> Mfn {
        let mut table = self.built.root;
        for above in [Level::L4, Level::L3, Level::L2] {
            if above == level {
                break;
            }
            table = self.memory().entry(table, above.index(address)).expect("a table").mfn();
        }
        table
    }

    /// Reads a word of its memory.
    pub fn peek(&self, address: u64) -> u64 {
        self.memory().load_u64(self.mfn(address), address as usize % 4096).expect("memory")
    }

    /// Reads bytes of its memory.
    pub fn peek_bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (offset, byte) in (0..).zip(&mut bytes) {
            let address: u64 = address + offset;
            let at = address as usize % 4096;
            self.memory().read(self.mfn(address), at, std::slice::from_mut(byte)).expect("memory");
        }
        bytes
    }

    /// An entry of its grant table, as if it had written it.
    pub fn lend(&self, reference: u32, to: DomId, mfn: Mfn) -> Result<(), Failed> {
        self.set_grant(
            reference,
            &GrantEntry { flags: GrantEntry::PERMIT_ACCESS, domid: to.0, frame: mfn.0 as u32 },
        )
    }

    /// The same with any contents.
    pub fn set_grant(&self, reference: u32, entry: &GrantEntry) -> Result<(), Failed> {
        let table =
            self.domain.grants().lock().frames().first().copied().ok_or("a guest has a grant table")?;
        Ok(self.memory().write(table, reference as usize * 8, entry.as_bytes())?)
    }

    /// Writes its memory, before it starts or where it waits for that.
    pub fn poke<T: IntoBytes + zerocopy::Immutable + ?Sized>(&self, address: u64, value: &T) {
        for (offset, byte) in (0..).zip(value.as_bytes()) {
            let address: u64 = address + offset;
            self.memory().write(self.mfn(address), address as usize % 4096, &[*byte]).expect("memory");
        }
    }

    /// What is in its frames.
    pub(super) fn contents(&self) -> Vec<[u8; 4096]> {
        let read = |mfn: &Mfn| {
            let mut bytes = [0; 4096];
            self.memory().read(*mfn, 0, &mut bytes).expect("memory");
            bytes
        };
        self.mfns.iter().map(read).collect()
    }

    /// A canary's memory is as it was built, but for the words at these addresses and those next to them, but for
    /// the pages that are `given` to others, and but for its page tables, which the processor marks.
    pub(super) fn check_memory(&self, but: &[u64], given: &[u64]) -> Result<(), Failed> {
        let mut now = self.contents();
        for address in but {
            let pfn = ((address - self.plan.virt_base) >> 12) as usize;
            let offset = *address as usize % 4096;
            now[pfn][offset..offset + 16].copy_from_slice(&self.original[pfn][offset..offset + 16]);
        }
        let is_given = |pfn: u64| given.contains(&(self.plan.virt_base + (pfn << 12)));
        let is_compared = |pfn: u64| !self.plan.table_frames.contains(&pfn) && !is_given(pfn);
        let changed =
            (0..PAGES).find(|&pfn| is_compared(pfn) && now[pfn as usize] != self.original[pfn as usize]);
        match changed {
            None => Ok(()),
            Some(pfn) => Err(format!("page {pfn} of the canary was written").into()),
        }
    }
}

/// The guest has powered off.
pub fn check_power_off(end: &End) -> Result<(), Failed> {
    match end {
        End::Shutdown(ShutdownReason::POWEROFF) => Ok(()),
        other => Err(format!("it did not power off: {other}{}", report(other)).into()),
    }
}

/// The guest has crashed, and the report says `why`.
pub fn check_crash(end: &End, why: &str) -> Result<(), Failed> {
    match end {
        End::Crashed(report) if report.to_string().contains(why) => Ok(()),
        other => Err(format!("no crash that tells of {why:?}: {other}").into()),
    }
}

fn report(end: &End) -> String {
    match end {
        End::Crashed(report) | End::HostFailed(report) => format!("\n{report}"),
        _ => String::new(),
    }
}
