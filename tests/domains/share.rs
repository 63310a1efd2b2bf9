//! Two busy domains share a pcpu evenly, whatever they are busy with.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, Host, Reg};
use libtest_mimic::{Failed, Trial};
use pv_abi::hypercall::{HypercallNumber as N, MulticallEntry};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("share/with one that computes", || even(&spinning(), Duration::from_secs(2))),
        kvm_test("share/with one that traps", || even(&trapping(), Duration::from_secs(1))),
        kvm_test("share/with one that makes hypercalls", || even(&calling(), Duration::from_secs(1))),
        kvm_test("share/with one that flushes in long batches", || even(&flushing(), Duration::from_secs(1))),
    ]
}

fn spinning() -> Code {
    let mut code = Code::default();
    code.stay();
    code
}

fn trapping() -> Code {
    let mut code = Code::default();
    code.catch_faults();
    let again = code.here();
    code.resume_at(again).raw(&[0x0f, 0x0b]); // ud2
    code
}

fn calling() -> Code {
    let mut code = Code::default();
    let again = code.here();
    code.hypercall(N::XEN_VERSION, &[0, 0]).jump(Condition::Always, again);
    code
}

/// One hypercall of a thousand operations, again and again, of which each is short; and multicalls of such.
fn flushing() -> Code {
    let mut code = Code::default();
    let flushes = code.data(&[MmuExtOp::new(MmuExtCommand::TLB_FLUSH_ALL, 0); 1000]);
    let batch = MulticallEntry { op: N::MMUEXT_OP.0, result: 0, args: [flushes, 1000, 0, 0x7ff0, 0, 0] };
    let batches = code.data(&[batch; 60]);
    let again = code.here();
    code.hypercall(N::MULTICALL, &[batches, 60]).mov(Reg::Rbx, 0).jump(Condition::Always, again);
    code
}

/// Runs a domain beside one that computes. Each gets about half of the time.
fn even(code: &Code, time: Duration) -> Result<(), Failed> {
    let host = Host::bare()?;
    let guests = [host.build(code)?, host.build(&spinning())?];
    guests.iter().try_for_each(|guest| guest.start())?;
    std::thread::sleep(time);
    let times = guests.each_ref().map(|guest| guest.domain.statistics().snapshot().time);
    guests.iter().try_for_each(|guest| guest.destroy().map(drop))?;
    let percent = times[0] * 100 / (times[0] + times[1]);
    check((35..=65).contains(&percent), || format!("it got {percent} %: {times:?} ns"))?;
    host.finish()
}
