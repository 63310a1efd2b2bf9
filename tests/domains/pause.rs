//! Domains that are paused at random moments, and lose nothing.

use crate::clock::{SHARED, map_shared, poke_shared};
use crate::support::{check, fail, kvm_test};
use crate::tiny_guest::{CONSOLE_PORT, Code, Condition, Host, Random, SCRATCH};
use backends::bell::Bell;
use backends::block::{Disk, image};
use backends::console::Input;
use backends::port::Port;
use backends::xenstore::StoreHandle;
use hypervisor::builder::{KernelImage, Plan, Wishes};
use hypervisor::control::{DomainConfig, Hypervisor, fill};
use hypervisor::domain::{Domain, NoConsole};
use hypervisor::host_domain::{DomainServices, HostDomain};
use hypervisor::kernel_image::KERNEL_IMAGE;
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::event_channel::EventChannelOp;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::sched::{Poll, SchedOp};
use pv_abi::shared_info::SharedInfo;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Pauses of each test, if `PAUSE_COUNT` says nothing else.
const PAUSES: u64 = 10_000;
/// Longer than anything takes here, on a slow host too.
const LIMIT: Duration = Duration::from_secs(60);

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("pause/under events", under_events),
        kvm_test("pause/under a disk's load", under_a_disk_s_load),
    ]
}

fn pauses() -> u64 {
    std::env::var("PAUSE_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(PAUSES)
}

fn failed(error: impl std::fmt::Display) -> Failed {
    error.to_string().into()
}

/// A moment within the few exits that follow.
fn moment(random: &mut Random) -> Duration {
    Duration::from_nanos(random.below(400_000))
}

/// Events that the guest has answered.
const ANSWERED: u64 = SCRATCH + 0x900;

/// A guest answers each event that the host sends it, beside the canary. None is lost; while the guest is paused it answers
/// none, and the canary goes on.
fn under_events() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    let entry = map_shared(&mut code);
    let port = code.data(&CONSOLE_PORT);
    let poll = code.data(&Poll { ports: port, nr_ports: 1, padding: 0, timeout: 0 });
    let again = code.here();
    code.hypercall(N::SCHED_OP, &[SchedOp::POLL.0, poll]);
    code.set(SHARED + offset_of!(SharedInfo, evtchn_pending) as u64, 0).increment(ANSWERED);
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::SEND.0, port]).jump(Condition::Always, again);
    let host = Host::with_pcpus(2)?;
    let guest = host.build(&code)?;
    poke_shared(&guest, entry);
    let host_domain = Arc::new(HostDomain::new(host.hypervisor.services().mmu.clone(), guest.domain.clone()));
    let bell = Arc::new(Bell::default());
    let own = Port::bind(&host_domain, guest.domain.id(), CONSOLE_PORT, bell.clone()).map_err(failed)?;
    bell.listen(); // a new connection starts with an event
    guest.start()?;
    let done = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::SeqCst) {
                own.notify().map_err(|error| error.to_string())?;
                asked += 1;
                if !bell.listen_for(LIMIT) {
                    return Err(format!("event {asked} got no answer"));
                }
            }
            Ok(asked)
        });
        let paused = pause_at_random(pauses(), &host, &guest);
        done.store(true, Ordering::SeqCst);
        if paused.is_err() {
            let _ = host.hypervisor.unpause(&guest.domain); // so that the last event is answered
        }
        let asked = asking.join().expect("no panic").map_err(failed);
        paused.and(asked)
    })?;
    // The new connection was an event for the guest, too.
    let answered = guest.peek(ANSWERED);
    check([asked, asked + 1].contains(&answered), || format!("of {asked} events {answered} were answered"))?;
    check(asked > pauses() / 10, || format!("{asked} events: there was no load"))?;
    println!("paused {} times under {asked} events", pauses());
    guest.destroy()?;
    drop(own);
    host.finish()
}

fn pause_at_random(times: u64, host: &Host, guest: &crate::tiny_guest::Guest) -> Result<(), Failed> {
    let mut random = Random::new(1);
    for round in 0..times {
        thread::sleep(moment(&mut random));
        host.hypervisor.pause(&guest.domain).map_err(failed)?;
        let before = guest.peek(ANSWERED);
        match round % 500 {
            0 => host.canary_goes_on()?,
            _ => thread::yield_now(),
        }
        let after = guest.peek(ANSWERED);
        check(after == before, || format!("it ran while it was paused: {before}, {after}"))?;
        host.hypervisor.unpause(&guest.domain).map_err(failed)?;
    }
    Ok(())
}

/// What the guest's console said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const SECTORS: u64 = 8192;
/// How the bundled kernel marks the sectors that it writes and expects; its number is behind.
const STAMP: u64 = 0x5a << 56;
/// Frames of the machine, and of the domain.
const FRAMES: u64 = 12 << 8;
const PAGES: u64 = 8 << 8;

/// The bundled kernel on two vCPUs reads, writes and flushes a disk, runs programs and is typed to. Paused with what serves
/// it at any moment, nothing of it changes, in memory or on the disk; then it goes on, reads what it should, and answers.
fn under_a_disk_s_load() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("disk.img");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(SECTORS * 512)?;
    for sector in 0..SECTORS {
        file.write_all_at(&(STAMP | sector).to_le_bytes(), sector * 512)?;
    }
    let machine = hypervisor::assemble::machine(FRAMES, 2).map_err(failed)?;
    let hypervisor = hypervisor::assemble::assemble(machine).map_err(failed)?;
    let (name, console) = ("paused".to_owned(), Arc::new(NoConsole));
    let domain = hypervisor
        .create_domain(DomainConfig { name, vcpus: 2, maximum_pages: PAGES, console })
        .map_err(failed)?;
    let kernel = KernelImage::parse(KERNEL_IMAGE).map_err(failed)?;
    let wishes = Wishes { pages: PAGES, ramdisk: None, command_line: "stdin=pipe".into() };
    let plan = Plan::new(&kernel, &wishes).map_err(failed)?;
    let filled = fill(hypervisor.services(), &domain, &kernel, &[], &plan).map_err(failed)?;
    let (mmu, store) = (&hypervisor.services().mmu, StoreHandle::default());
    let (input, said) = (Arc::<Input>::default(), Said::default());
    let complaints = Said::default();
    let complain = |complaints: &Said| {
        let complaints = complaints.clone();
        move |what: &str| complaints.0.lock().expect("no panic").extend(what.bytes().chain(*b"\n"))
    };
    let mut services = DomainServices::start(
        mmu,
        &domain,
        &filled,
        &store,
        (Arc::clone(&input), said.clone()),
        complain(&complaints),
    )?;
    let image = image::open(&path, None, true, "a test").map_err(failed)?;
    let disconnected = complain(&complaints);
    services
        .attach_disk(Arc::new(Disk::new("xvda", image, true)), move |why| disconnected(&why.to_string()))?;
    hypervisor.start(&domain, &filled.start_state()).map_err(failed)?;

    let load =
        Load { hypervisor: &hypervisor, domain: &domain, services: &services, input: &input, said: &said };
    let asked = load.pause_at_random(pauses(), &file)?;
    input.push(b"poweroff 7\n");
    let end = hypervisor.wait_for(&domain, LIMIT);
    let end = end.ok_or_else(|| format!("it does not power off: {}", said.text()))?;
    drop(services);
    check(end.status == 7, || format!("{end:?}: {}", said.text()))?;
    check(complaints.text().is_empty(), || complaints.text())?;
    for sector in 0..SECTORS {
        let mut begin = [0; 8];
        file.read_exact_at(&mut begin, sector * 512)?;
        let found = u64::from_le_bytes(begin);
        check(found >> 56 == 0x5a && found & 0xffff == sector, || format!("sector {sector}: {found:#x}"))?;
    }
    println!("paused {} times under {asked} loads", pauses());
    Ok(())
}

struct Load<'a> {
    hypervisor: &'a Hypervisor,
    domain: &'a Arc<Domain>,
    services: &'a DomainServices,
    input: &'a Input,
    said: &'a Said,
}

impl Load<'_> {
    /// Pauses the domain so often. How many loads it has had meanwhile.
    fn pause_at_random(&self, times: u64, file: &File) -> Result<usize, Failed> {
        let (mut random, mut asked) = (Random::new(2), 0);
        for round in 0..times {
            if asked < self.answered()? + 2 {
                asked += 1;
                let action = ["read", "write", "flush"][asked % 3];
                let line = format!("spawn spin 1 &\nmeasure {action} xvda 4 8 64 {asked}\n");
                self.input.push(line.as_bytes());
            }
            thread::sleep(moment(&mut random));
            self.hypervisor.pause(self.domain).map_err(failed)?;
            self.services.pause();
            if round % 100 == 0 {
                let (memory, disk) = (self.memory(), contents(file)?);
                thread::sleep(Duration::from_millis(1));
                check(self.memory() == memory, || "its memory changed while it was paused".into())?;
                check(contents(file)? == disk, || "its disk changed while it was paused".into())?;
            }
            self.services.resume();
            self.hypervisor.unpause(self.domain).map_err(failed)?;
        }
        let start = Instant::now();
        while self.answered()? < asked {
            check(start.elapsed() < LIMIT, || format!("it does not go on: {}", self.said.text()))?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(asked)
    }

    /// Loads that are done; all that is wrong is an error.
    fn answered(&self) -> Result<usize, Failed> {
        let text = self.said.text();
        if let Some(wrong) = text.lines().find(|line| line.starts_with("measure: ")) {
            return fail(wrong);
        }
        check(!self.domain.life().has_ended(), || format!("it has ended: {text}"))?;
        Ok(text.lines().filter(|line| line.starts_with("measured ")).count())
    }

    /// A hash of all the machine's memory but the domain's shared page, where events become pending at any time.
    fn memory(&self) -> u64 {
        let (memory, mut hasher) = (self.hypervisor.services().mmu.memory(), DefaultHasher::new());
        let shared = self.domain.shared().frame();
        let mut page = [0; 4096];
        for mfn in (0..FRAMES).map(Mfn).filter(|&mfn| mfn != shared) {
            if memory.read(mfn, 0, &mut page).is_ok() {
                page.hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

fn contents(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; SECTORS as usize * 512];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
