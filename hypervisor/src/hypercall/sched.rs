//! `sched_op`: yield, block, poll, shut down.

use super::{Arguments, Call, Outcome, Reply, done, no_such_operation, refuse};
use crate::domain::End;
use crate::error::Failure;
use crate::event_channel as channel;
use crate::guest_memory::GuestArray;
use crate::timers::TimerKind;
use pv_abi::event_channel::PORTS;
use pv_abi::sched::{Poll, SchedOp, Shutdown, ShutdownReason};
use pv_abi::{Errno, EventPort};

/// `sched_op(op, argument)`.
pub fn sched_op(call: &mut Call<'_>, [op, at, ..]: Arguments) -> Reply {
    match SchedOp(op) {
        SchedOp::YIELD => Ok(Outcome::Yielded),
        SchedOp::BLOCK => {
            call.handle.info().set_masked(false);
            Ok(Outcome::Blocked)
        }
        SchedOp::SHUTDOWN => {
            let Shutdown { reason } = call.read(at)?;
            shut_down(call, reason)
        }
        SchedOp::SHUTDOWN_CODE => {
            let Shutdown { reason } = call.read(at)?;
            call.domain.set_shutdown_code(reason);
            done()
        }
        SchedOp::POLL => poll(call, at),
        _ => no_such_operation(),
    }
}

fn shut_down(call: &mut Call<'_>, reason: ShutdownReason) -> Reply {
    let reason = call.domain.shutdown_reason(reason);
    if reason == ShutdownReason::CRASH {
        return Err(Failure::Crash("its kernel says that it crashed".into()));
    }
    call.domain.life().end(End::Shutdown(reason));
    Ok(Outcome::Ended)
}

/// Looks at the ports; where nothing is pending yet, this call is made again when something may be.
fn poll(call: &mut Call<'_>, at: u64) -> Reply {
    let request: Poll = call.read(at)?;
    if request.nr_ports > Poll::MAX_PORTS {
        return refuse(Errno::EINVAL, "too many ports to poll");
    }
    let array = GuestArray::<EventPort>::new(request.ports, u64::from(request.nr_ports))?;
    let mut ports = Vec::with_capacity(request.nr_ports as usize);
    for index in 0..array.len() {
        let port = array.get(&call.space(), index)?;
        if port.0 >= PORTS {
            return refuse(Errno::EINVAL, "no such event port");
        }
        ports.push(port);
    }
    let is_pending = channel::announce_poll(call.domain, call.handle, &ports);
    let is_over = request.timeout != 0 && request.timeout <= call.services.clock.now();
    let timers = &call.services.timers;
    if is_over || is_pending || call.handle.info().wants_upcall() {
        call.handle.set_polls(false);
        timers.set(call.handle.key(), TimerKind::Poll, None);
        return done();
    }
    let until = (request.timeout != 0).then_some(request.timeout);
    timers.set(call.handle.key(), TimerKind::Poll, until);
    Ok(Outcome::Polling { ports, until })
}
