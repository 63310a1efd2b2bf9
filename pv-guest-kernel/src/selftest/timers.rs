//! The clock and the timers.

use pv_abi::Errno;
use pv_abi::hypercall::HypercallNumber;
use pv_abi::vcpu::VcpuOp;

use super::hypercall;
use super::report::Report;
use crate::arch::hypercall::{sched_poll, set_singleshot_timer, set_timer_op};
use crate::event;
use crate::time::{self, MILLISECOND, SECOND, now};

pub async fn run(report: &mut Report) {
    let mut last = now();
    let steady = (0..10_000).all(|_| {
        let this = now();
        let ordered = this >= last;
        last = this;
        ordered
    });
    report.check("the clock over 10000 readings", steady, "never goes back");
    let date = time::wall_clock();
    report.check("the date", date > 1_577_836_800, format_args!("{date} s"));

    for milliseconds in [1, 20] {
        let before = now();
        time::sleep(milliseconds * MILLISECOND).await;
        let slept = now() - before;
        report.check(
            &alloc::format!("sleeping {milliseconds} ms"),
            (milliseconds * MILLISECOND..5 * SECOND).contains(&slept),
            format_args!("{} us", slept / 1000),
        );
    }
    fires(report, "the single-shot timer", &set_singleshot_timer);
    fires(report, "set_timer_op", &set_timer_op);
    stopping(report);
    time::forget_armed();
}

/// Waits on the port itself, below the kernel's own timers.
fn fires(report: &mut Report, what: &str, set: &dyn Fn(u64) -> Result<u64, Errno>) {
    for (when, delay) in [("in 5 ms", 5 * MILLISECOND), ("in the past", 0)] {
        event::dispatch();
        let deadline = now() + delay;
        let result = set(if delay == 0 { 1 } else { deadline });
        let waited = sched_poll(&[time::port()], now() + 5 * SECOND);
        let late = now().checked_sub(deadline);
        report.check(
            &alloc::format!("{what}, {when}"),
            result == Ok(0) && waited == Ok(0) && late.is_some_and(|late| late < 5 * SECOND),
            format_args!("{} us late", late.unwrap_or(0) / 1000),
        );
    }
}

fn stopping(report: &mut Report) {
    event::dispatch();
    let before = time::events();
    // Far enough away for a guest that is made to wait in between.
    let set = set_singleshot_timer(now() + 200 * MILLISECOND);
    let stop = hypercall(HypercallNumber::VCPU_OP, [VcpuOp::STOP_SINGLESHOT_TIMER.0, 0, 0, 0, 0]);
    report.done("stopping the single-shot timer", set.and(stop));
    let waited = sched_poll(&[time::port()], now() + 210 * MILLISECOND);
    event::dispatch();
    report.equal("events of a stopped timer", (waited, time::events() - before), (Ok(0), 0));
}
