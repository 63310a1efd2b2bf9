//! `sched_op`: giving way and waiting.

use pv_abi::hypercall::HypercallNumber;
use pv_abi::sched::{Poll, SchedOp};
use pv_abi::{Errno, EventPort};

use super::report::Report;
use super::{WILD, hypercall};
use crate::arch::hypercall::sched_poll;
use crate::time::{MILLISECOND, SECOND, now};

pub fn run(report: &mut Report) {
    report.done("yielding", sched_op(SchedOp::YIELD, 0));
    let before = now();
    report.done("polling no port for 5 ms", sched_poll(&[], before + 5 * MILLISECOND));
    let waited = now() - before;
    report.check(
        "the time that took",
        (5 * MILLISECOND..5 * SECOND).contains(&waited),
        format_args!("{} us", waited / 1000),
    );
    let ports = [EventPort(1); Poll::MAX_PORTS as usize + 1];
    report.refused("polling too many ports", sched_poll(&ports, 0), Errno::EINVAL);
    report.refused("polling a port beyond all", sched_poll(&[EventPort(1 << 20)], 1), Errno::EINVAL);
    report.refused("polling at a wild address", sched_op(SchedOp::POLL, WILD), Errno::EFAULT);
    report.refused("a shutdown at a wild address", sched_op(SchedOp::SHUTDOWN, WILD), Errno::EFAULT);
    report.refused("an unknown operation", sched_op(SchedOp(99), 0), Errno::ENOSYS);
}

fn sched_op(op: SchedOp, address: u64) -> Result<u64, Errno> {
    hypercall(HypercallNumber::SCHED_OP, [op.0, address, 0, 0, 0])
}
