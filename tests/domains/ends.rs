//! What is left of domains when they end: nothing, neither in the machine nor in the host.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, Guest, Host, Reg, TABLE, check_power_off};
use libtest_mimic::{Failed, Trial};
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("ends/frames come back, and are scrubbed", frames_are_scrubbed),
        kvm_test("ends/of a hundred domains leave nothing", a_hundred_domains),
        kvm_test("ends/of those that never started", never_started),
        kvm_test("ends/while a back-end has a page", while_a_back_end_has_a_page),
    ]
}

const SECRET: u64 = 0x7365_6372_6574_2121;

/// A domain writes a secret over all of its free memory and is gone. Whoever gets one of its frames finds zeros.
fn frames_are_scrubbed() -> Result<(), Failed> {
    const WORDS: u64 = 0xc_0000 / 8;
    let host = Host::bare()?;
    let mut code = Code::default();
    code.mov(Reg::Rdi, TABLE).mov(Reg::Rcx, WORDS).mov(Reg::Rax, SECRET).asm(|a| a.rep().stosq());
    code.park();
    let free = host.free_frames();
    let keeper = host.build(&code)?;
    keeper.start()?;
    keeper.wait_until_parked()?;
    let had = keeper.frames().to_vec();
    check(keeper.peek(TABLE) == SECRET, || "the secret was not written".into())?;
    keeper.destroy()?;
    check(host.free_frames() == free, || format!("{} of {free} frames", host.free_frames()))?;
    // As many as the machine holds: sooner or later its frames come up again.
    let (mut heirs, mut inherited) = (Vec::new(), 0);
    while host.free_frames() > 1100 {
        let heir = host.build(&Code::default())?;
        inherited += heir.frames().iter().filter(|mfn| had.contains(mfn)).count();
        check(!holds(&heir, SECRET), || "a secret was inherited".into())?;
        heirs.push(heir);
    }
    check(inherited > 500, || format!("{inherited} frames came up again"))?;
    heirs.iter().try_for_each(|heir| heir.destroy().map(drop))?;
    host.finish()
}

fn holds(guest: &Guest, word: u64) -> bool {
    let page = |mfn| -> bool {
        (0..512).any(|index| guest.memory().load_u64(mfn, index * 8).expect("memory") == word)
    };
    guest.frames().iter().any(|&mfn| page(mfn))
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("procfs").count()
}

/// Free frames, and threads and descriptors of this process, once nothing changes any more: a thread that was joined
/// is listed for a moment longer.
fn settled(host: &Host) -> Result<(u64, usize, usize), Failed> {
    let now = || (host.free_frames(), count("/proc/self/task"), count("/proc/self/fd"));
    let (mut last, mut same) = (now(), 0);
    for _ in 0..1000 {
        std::thread::sleep(Duration::from_millis(10));
        let next = now();
        same = if next == last { same + 1 } else { 0 };
        last = next;
        if same == 20 {
            return Ok(last);
        }
    }
    Err("the process does not settle".into())
}

/// A page that a back-end has mapped outlives its domain: nobody gets it before the back-end lets go.
fn while_a_back_end_has_a_page() -> Result<(), Failed> {
    let host = Host::bare()?;
    let free = host.free_frames();
    let guest = host.build(Code::default().park())?;
    let console = guest.connect_console()?;
    guest.start()?;
    guest.wait_until_parked()?;
    guest.destroy()?;
    check(host.free_frames() == free - 1, || format!("{} of {free} frames", host.free_frames()))?;
    let mut heirs = Vec::new();
    while host.free_frames() > 1100 {
        heirs.push(host.build(&Code::default())?);
    }
    let inherited = heirs.iter().any(|heir| heir.frames().contains(&guest.built.console));
    check(!inherited, || "another domain has the page".into())?;
    heirs.iter().try_for_each(|heir| heir.destroy().map(drop))?;
    check(console.finish().is_some(), || "the back-end has failed".into())?;
    host.finish()
}

/// One domain after the other, with a console each, that end in every way.
fn a_hundred_domains() -> Result<(), Failed> {
    let host = Host::new()?;
    let mut endings = vec![Code::default(); 3];
    endings[0].power_off();
    endings[1].asm(|a| a.ud2());
    endings[2].park();
    let before = settled(&host)?;
    for number in 0..100 {
        let guest = host.build(&endings[number % 3])?;
        let console = guest.connect_console()?;
        guest.start()?;
        if number % 3 == 2 {
            guest.wait_until_parked()?;
            guest.destroy()?;
        }
        let end = guest.wait()?;
        if number % 3 == 0 {
            check_power_off(&end)?;
        }
        console.finish();
    }
    let after = settled(&host)?;
    check(after == before, || format!("free frames, threads, descriptors: {after:?}, and were {before:?}"))?;
    host.finish()
}

/// Domains that are ended before their first instruction, half-built or whole, and one that is ended twice.
fn never_started() -> Result<(), Failed> {
    let host = Host::new()?;
    let free = host.free_frames();
    let mut code = Code::default();
    let again = code.here();
    code.increment(TABLE).jump(Condition::Always, again);
    let guest = host.build(&code)?;
    guest.destroy()?;
    check(host.free_frames() == free, || format!("{} of {free} frames", host.free_frames()))?;
    check(guest.start().is_err(), || "the dead have started".into())?;
    guest.destroy()?;
    let guest = host.build(&code)?;
    guest.start()?;
    guest.destroy()?;
    guest.destroy()?;
    check(host.free_frames() == free, || "frames are lost".into())?;
    host.finish()
}
