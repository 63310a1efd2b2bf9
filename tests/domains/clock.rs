//! Busy guests that have to share pcpus, each of which reads its clock all the time, as a kernel would: from
//! its `vcpu_info`, by the version protocol, with the TSC.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, Guest, Host, Reg, SCRATCH};
use hypervisor::clock::Clock;
use hypervisor::domain::Console;
use iced_x86::code_asm::{cl, ecx, edx, r8b, r8d, r12, rax, rcx, rdx};
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
    code.mov(Reg::Rax, N::UPDATE_VA_MAPPING.0).asm(|a| a.syscall());
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
    code.asm(|a| a.test(r8b, 1)).jump(Condition::NotZero, again);
    code.asm(|a| {
        a.lfence()?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)
    });
    code.load(Reg::Rcx, field(offset_of!(VcpuTimeInfo, tsc_timestamp)));
    code.asm(|a| {
        // No time before the stamp.
        a.mov(edx, 0)?;
        a.sub(rax, rcx)?;
        a.cmovb(rax, rdx)
    });
    // The scale: its low half is the multiplier, then comes the shift.
    code.load(Reg::Rdx, field(offset_of!(VcpuTimeInfo, tsc_to_system_mul)));
    code.asm(|a| {
        let (mut right, mut shifted) = (a.create_label(), a.create_label());
        a.mov(rcx, rdx)?;
        a.shr(rcx, 32)?;
        a.mov(edx, edx)?;
        a.test(cl, cl)?;
        a.js(right)?;
        a.shl(rax, cl)?;
        a.jmp(shifted)?;
        a.set_label(&mut right)?;
        a.neg(cl)?;
        a.shr(rax, cl)?;
        a.set_label(&mut shifted)?;
        a.mul(rdx)?;
        a.shrd(rax, rdx, 32)
    });
    code.load(Reg::Rcx, field(offset_of!(VcpuTimeInfo, system_time))).asm(|a| a.add(rax, rcx));
    code.load(Reg::Rcx, field(offset_of!(VcpuTimeInfo, version)));
    code.asm(|a| a.cmp(ecx, r8d)).jump(Condition::NotZero, again);
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
    code.increment(READ).asm(|a| a.dec(r12)).jump(Condition::NotZero, start);
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
