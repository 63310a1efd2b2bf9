//! Busy guests that have to share pcpus, each of which reads its clock all the time, as a kernel would: from
//! its `vcpu_info`, by the version protocol, with the TSC.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, Guest, Host, Reg, SCRATCH};
use hypervisor::clock::Clock;
use hypervisor::domain::Console;
use libtest_mimic::{Failed, Trial};
use pv_abi::PAGE_SIZE;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::shared_info::{SharedInfo, VcpuInfo};
use pv_abi::time::VcpuTimeInfo;
use std::mem::offset_of;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zerocopy::FromBytes;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("clock/of two busy guests on one pcpu", || compare(1, 2, Duration::from_secs(10))),
        kvm_test("clock/of three busy guests on two pcpus", || compare(2, 3, Duration::from_secs(3))),
    ]
}

/// Where a guest maps its shared page: in place of a page of its own.
pub const SHARED: u64 = SCRATCH + 4 * PAGE_SIZE as u64;
const TIME: u64 = SHARED + offset_of!(VcpuInfo, time) as u64;
/// The clock as last read.
const LAST: u64 = SCRATCH + 0x800;
/// How often it was read.
const READ: u64 = SCRATCH + 0x808;
/// How often it had run backwards.
const BACKWARDS: u64 = SCRATCH + 0x810;

/// Readings between two of which the host is told.
const READINGS: u64 = 20_000;
const MILLISECOND: u64 = 1_000_000;

/// Maps the shared page. [`poke_shared`] tells which it is.
pub fn map_shared(code: &mut Code) -> u64 {
    let entry = code.data(&[0u64]);
    code.mov(Reg::Rdi, SHARED).load(Reg::Rsi, entry).mov(Reg::Rdx, 2);
    code.mov(Reg::Rax, N::UPDATE_VA_MAPPING.0).raw(&[0x0f, 0x05]);
    entry
}

/// Lets the guest know the entry that maps its shared page.
pub fn poke_shared(guest: &Guest, entry: u64) {
    guest.poke(entry, &(guest.domain.shared().frame().0 << 12 | 7));
}

/// Reads the clock into RAX. RCX, RDX and R8 are lost.
pub fn read_clock(code: &mut Code) {
    let field = |offset: usize| TIME + offset as u64;
    let again = code.here();
    code.load(Reg::R8, field(offset_of!(VcpuTimeInfo, version)));
    code.raw(&[0x41, 0xf6, 0xc0, 1]).jump(Condition::NotZero, again); // test r8b, 1
    // lfence; rdtsc; shl rdx, 32; or rax, rdx
    code.raw(&[0x0f, 0xae, 0xe8, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 32, 0x48, 0x09, 0xd0]);
    code.load(Reg::Rcx, field(offset_of!(VcpuTimeInfo, tsc_timestamp)));
    // sub rax, rcx; jae +2; xor eax, eax
    code.raw(&[0x48, 0x29, 0xc8, 0x73, 2, 0x31, 0xc0]);
    // The scale: its low half is the multiplier, then comes the shift.
    code.load(Reg::Rdx, field(offset_of!(VcpuTimeInfo, tsc_to_system_mul)));
    // mov rcx, rdx; shr rcx, 32; mov edx, edx; test cl, cl; js +5; shl rax, cl; jmp +5; neg cl; shr rax, cl
    code.raw(&[0x48, 0x89, 0xd1, 0x48, 0xc1, 0xe9, 32, 0x89, 0xd2, 0x84, 0xc9, 0x78, 5]);
    code.raw(&[0x48, 0xd3, 0xe0, 0xeb, 5, 0xf6, 0xd9, 0x48, 0xd3, 0xe8]);
    // mul rdx; shrd rax, rdx, 32
    code.raw(&[0x48, 0xf7, 0xe2, 0x48, 0x0f, 0xac, 0xd0, 32]);
    code.load(Reg::Rcx, field(offset_of!(VcpuTimeInfo, system_time))).raw(&[0x48, 0x01, 0xc8]); // add rax, rcx
    code.load(Reg::Rcx, field(offset_of!(VcpuTimeInfo, version)));
    code.raw(&[0x44, 0x39, 0xc1]).jump(Condition::NotZero, again); // cmp ecx, r8d
}

/// Reads the clock all the time, and tells the host of a reading now and then.
fn reader() -> (Code, u64) {
    let mut code = Code::default();
    let entry = map_shared(&mut code);
    code.mov(Reg::R12, READINGS);
    let start = code.here() + 5 + 8;
    code.jump(Condition::Always, start);
    let backwards = code.here();
    code.increment(BACKWARDS);
    assert_eq!(code.here(), start);
    read_clock(&mut code);
    code.compare(LAST).store(LAST, Reg::Rax).jump(Condition::Below, backwards);
    code.increment(READ).raw(&[0x49, 0xff, 0xcc]).jump(Condition::NotZero, start); // dec r12
    read_clock(&mut code);
    code.say().mov(Reg::R12, READINGS).jump(Condition::Always, start);
    (code, entry)
}

/// A reading that a guest has just made, and the host's clocks at that moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    guest: u64,
    host: u64,
    wall: u64,
}

/// Takes a guest's readings as it says them: it has left the guest for that, so nobody's clock stands still.
#[derive(Debug)]
struct Comparison {
    clock: Arc<dyn Clock>,
    readings: Mutex<Vec<Reading>>,
}

impl Comparison {
    fn new(host: &Host) -> Arc<Self> {
        Arc::new(Self { clock: host.hypervisor.services().clock.clone(), readings: Mutex::default() })
    }
}

impl Console for Comparison {
    fn write(&self, bytes: &[u8]) -> usize {
        let host = self.clock.now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let guest = u64::read_from_bytes(bytes).expect("a word");
        self.readings.lock().expect("no panic").push(Reading { guest, host, wall });
        bytes.len()
    }
}

/// The Unix time at which the guest's clock was 0, in nanoseconds.
fn wall_clock_at_start(guest: &Guest) -> u64 {
    let shared = guest.domain.shared();
    let field = |offset| u64::from(shared.memory().load_u32(shared.frame(), offset).expect("memory"));
    let seconds = field(offset_of!(SharedInfo, wc_sec)) | field(offset_of!(SharedInfo, wc_sec_hi)) << 32;
    seconds * 1_000_000_000 + field(offset_of!(SharedInfo, wc_nsec))
}

/// The error, of which nine in ten are smaller: the others were suspended on their way from the guest's reading to
/// the host's.
fn usual_error(readings: &[Reading], of: impl Fn(&Reading) -> (u64, u64)) -> u64 {
    let error = |reading| {
        let (guest, host) = of(reading);
        guest.abs_diff(host)
    };
    let mut errors: Vec<u64> = readings.iter().map(error).collect();
    errors.sort_unstable();
    errors[errors.len() * 9 / 10]
}

fn compare(pcpus: u32, guests: usize, time: Duration) -> Result<(), Failed> {
    let host = Host::bare_with_pcpus(pcpus)?;
    let (code, entry) = reader();
    let comparisons: Vec<_> = (0..guests).map(|_| Comparison::new(&host)).collect();
    let build = |comparison: &Arc<Comparison>| host.build_with(&code, comparison.clone());
    let guests = comparisons.iter().map(build).collect::<Result<Vec<_>, _>>()?;
    for guest in &guests {
        poke_shared(guest, entry);
        guest.start()?;
    }
    std::thread::sleep(time);
    for (guest, comparison) in guests.iter().zip(&comparisons) {
        let (read, backwards) = (guest.peek(READ), guest.peek(BACKWARDS));
        let start = wall_clock_at_start(guest);
        guest.destroy()?;
        let readings = comparison.readings.lock().expect("no panic");
        check(read > 100_000 && readings.len() > 20, || {
            format!("it hardly ran: {read}, {}", readings.len())
        })?;
        check(backwards == 0, || format!("{backwards} times backwards"))?;
        // What the guest read was read before it was heard of.
        let ahead = readings.iter().map(|reading| reading.guest.saturating_sub(reading.host)).max();
        check(ahead < Some(MILLISECOND), || format!("{ahead:?} ns ahead"))?;
        let system = usual_error(&readings, |reading| (reading.guest, reading.host));
        check(system < MILLISECOND, || format!("the clock is {system} ns off"))?;
        let wall = usual_error(&readings, |reading| (start + reading.guest, reading.wall));
        check(wall < MILLISECOND, || format!("the wall clock is {wall} ns off"))?;
    }
    host.finish()
}
