//! Two busy guests on one pcpu for ten seconds, each of which reads its clock all the time, as a kernel would: from
//! its `vcpu_info`, by the version protocol, with the TSC.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, Guest, Host, Reg, SCRATCH};
use libtest_mimic::{Failed, Trial};
use pv_abi::PAGE_SIZE;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::shared_info::{SharedInfo, VcpuInfo};
use pv_abi::time::VcpuTimeInfo;
use std::mem::offset_of;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub fn tests() -> Vec<Trial> {
    vec![kvm_test("clock/of two busy guests", two_busy_guests)]
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

/// Reads the clock all the time.
fn reader() -> (Code, u64) {
    let mut code = Code::default();
    let entry = map_shared(&mut code);
    let start = code.here() + 5 + 8;
    code.jump(Condition::Always, start);
    let backwards = code.here();
    code.increment(BACKWARDS);
    assert_eq!(code.here(), start);
    read_clock(&mut code);
    code.compare(LAST).store(LAST, Reg::Rax).jump(Condition::Below, backwards);
    code.increment(READ).jump(Condition::Always, start);
    (code, entry)
}

/// How far a guest's clock and its wall clock were off.
#[derive(Debug, Default)]
struct Off {
    samples: usize,
    system: Vec<u64>,
    wall: Vec<u64>,
}

impl Off {
    /// Looks at a reading that the guest made between two looks at the host's clocks.
    fn sample(&mut self, host: &Host, guest: &Guest) {
        const BRIEF: u64 = 100_000;
        let before = guest.peek(LAST);
        let started = host.hypervisor.services().clock.now();
        let spun = Instant::now();
        let mut read = before;
        while read == before && spun.elapsed() < Duration::from_nanos(2 * BRIEF) {
            read = guest.peek(LAST);
        }
        let until = host.hypervisor.services().clock.now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("a date").as_nanos() as u64;
        let after = host.hypervisor.services().clock.now();
        // The guest did not run, or this thread did not.
        if read == before || after - started > BRIEF {
            return;
        }
        self.samples += 1;
        self.system.push(started.saturating_sub(read).max(read.saturating_sub(until)));
        self.wall.push((wall_clock_at_start(guest) + read).abs_diff(wall));
    }

    /// The largest, but for the few readings that the guest made long before it stored them.
    fn largest(mut off: Vec<u64>) -> u64 {
        off.sort_unstable();
        off[off.len() * 95 / 100]
    }
}

/// The Unix time at which the guest's clock was 0, in nanoseconds.
fn wall_clock_at_start(guest: &Guest) -> u64 {
    let shared = guest.domain.shared();
    let field = |offset| u64::from(shared.memory().load_u32(shared.frame(), offset).expect("memory"));
    let seconds = field(offset_of!(SharedInfo, wc_sec)) | field(offset_of!(SharedInfo, wc_sec_hi)) << 32;
    seconds * 1_000_000_000 + field(offset_of!(SharedInfo, wc_nsec))
}

fn two_busy_guests() -> Result<(), Failed> {
    const TIME: Duration = Duration::from_secs(10);
    const MILLISECOND: u64 = 1_000_000;
    let host = Host::bare()?;
    let (code, entry) = reader();
    let guests = [host.build(&code)?, host.build(&code)?];
    for guest in &guests {
        poke_shared(guest, entry);
        guest.start()?;
    }
    let mut off = [Off::default(), Off::default()];
    let start = Instant::now();
    while start.elapsed() < TIME || off.iter().any(|off| off.samples < 20) {
        check(start.elapsed() < 3 * TIME, || format!("too few samples: {off:?}"))?;
        off.iter_mut().zip(&guests).for_each(|(off, guest)| off.sample(&host, guest));
        std::thread::sleep(Duration::from_millis(3));
    }
    for (off, guest) in off.into_iter().zip(&guests) {
        check(guest.peek(READ) > 1_000_000, || format!("it hardly ran: {} readings", guest.peek(READ)))?;
        check(guest.peek(BACKWARDS) == 0, || format!("{} times backwards", guest.peek(BACKWARDS)))?;
        let (system, wall) = (Off::largest(off.system), Off::largest(off.wall));
        check(system < MILLISECOND, || format!("the clock is {system} ns off"))?;
        check(wall < MILLISECOND, || format!("the wall clock is {wall} ns off"))?;
        guest.destroy()?;
    }
    host.finish()
}
