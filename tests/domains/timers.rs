//! Timers of a guest that sleeps.

use crate::clock::{SHARED, map_shared, poke_shared, read_clock};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Host, Reg, SCRATCH, check_power_off};
use iced_x86::code_asm::{rax, rcx, rdi};
use libtest_mimic::{Failed, Trial};
use pv_abi::event_channel::{BindVirq, EventChannelOp, Virq};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::sched::{Poll, SchedOp};
use pv_abi::shared_info::{SharedInfo, VcpuInfo};
use pv_abi::{EventPort, VcpuId};
use std::mem::offset_of;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("timers/of a guest alone", || never_early(&Host::bare()?)),
        kvm_test("timers/of a guest beside a busy one", || {
            let host = Host::new()?;
            never_early(&host)?;
            host.finish()
        }),
    ]
}

/// How long the guest sleeps each time, in nanoseconds.
const SLEEPS: [u64; 8] = [1, 1_000, 100_000, 1_000_000, 3_000_000, 10_000_000, 20_000_000, 50_000_000];
/// Later than this is not late but lost.
const LOST: u64 = 2_000_000_000;

/// Sleeps by the timer and by poll. Each time the guest's own clock says at least what was asked for when it is
/// awake again.
fn never_early(host: &Host) -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    let entry = map_shared(&mut code);
    let request = code.data(&BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: EventPort(0) });
    code.hypercall(N::EVENT_CHANNEL_OP, &[EventChannelOp::BIND_VIRQ.0, request]);
    let poll = code.data(&Poll { ports: 0, nr_ports: 0, padding: 0, timeout: 0 });
    for sleep in SLEEPS {
        ask(&mut code, sleep);
        code.asm(|a| a.mov(rdi, rax));
        code.mov(Reg::Rax, N::SET_TIMER_OP.0).asm(|a| a.syscall());
        // The upcall goes on behind the block: 18 bytes of `resume_at`, 32 of the hypercall.
        let behind = code.here() + 50;
        code.resume_at(behind).hypercall(N::SCHED_OP, &[SchedOp::BLOCK.0, 0]);
        assert_eq!(code.here(), behind);
        tell(&mut code);
        // Nothing is pending any more.
        for field in [0, offset_of!(VcpuInfo, evtchn_pending_sel), offset_of!(SharedInfo, evtchn_pending)] {
            // Byte 1 of the first is the mask: upcalls stay masked but for the block.
            code.set(SHARED + field as u64, if field == 0 { 0x100 } else { 0 });
        }
        ask(&mut code, sleep);
        code.store(poll + offset_of!(Poll, timeout) as u64, Reg::Rax);
        code.hypercall(N::SCHED_OP, &[SchedOp::POLL.0, poll]);
        tell(&mut code);
    }
    code.power_off();
    let guest = host.build(&code)?;
    poke_shared(&guest, entry);
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let said = guest.said();
    check(said.len() == 4 * SLEEPS.len(), || format!("not all sleeps: {said:?}"))?;
    for pair in said.chunks(2) {
        let late = pair[1].checked_sub(pair[0]).ok_or_else(|| format!("early: {pair:?}"))?;
        check(late < LOST, || format!("{late} ns late"))?;
    }
    Ok(())
}

const ASKED: u64 = SCRATCH + 0x900;

/// The time in `sleep` nanoseconds, in RAX and [`ASKED`].
fn ask(code: &mut Code, sleep: u64) {
    read_clock(code);
    code.mov(Reg::Rcx, sleep).asm(|a| a.add(rax, rcx)).store(ASKED, Reg::Rax);
}

/// Says what was asked for and what the clock says now.
fn tell(code: &mut Code) {
    read_clock(code);
    code.store(ASKED + 8, Reg::Rax).load(Reg::Rax, ASKED).say().load(Reg::Rax, ASKED + 8).say();
}
