//! From the guest's registers to a row of the table and back.

use super::table::{Hypercall, find};
use super::{Arguments, Call, Outcome, Reply};
use crate::domain::Domain;
use crate::error::{Failure, Refusal};
use crate::services::Services;
use crate::trace::{Called, Record};
use crate::vcpu::{Continuation, Progress, Vcpu, VcpuHandle};
use pv_abi::Errno;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use std::sync::Arc;

/// Makes the hypercall that a vCPU's registers ask for. `by_syscall`: it came through that gate, which is seen
/// in RCX and R11.
///
/// # Errors
/// Where the domain cannot go on.
pub fn dispatch(
    services: &Services,
    domain: &Arc<Domain>,
    handle: &VcpuHandle,
    vcpu: &mut Vcpu,
    by_syscall: bool,
) -> Reply {
    let context = &mut vcpu.context;
    if (context.cs, context.ss) != (FLAT_RING3_CS64, FLAT_RING3_SS64) {
        (context.cs, context.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
        context.segments_changed = true;
    }
    let registers = &mut context.registers;
    if by_syscall {
        (registers.rcx, registers.r11) = (registers.rip, registers.rflags);
    }
    let number = registers.rax;
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    let call = Continuation { number, arguments, progress: Progress::default() };
    domain.statistics().hypercall(number);
    run(services, domain, handle, vcpu, call, false)
}

/// Goes on with a hypercall that was interrupted; none where there is no such.
pub fn resume(
    services: &Services,
    domain: &Arc<Domain>,
    handle: &VcpuHandle,
    vcpu: &mut Vcpu,
) -> Option<Reply> {
    let call = vcpu.continuation.take()?;
    Some(run(services, domain, handle, vcpu, call, true))
}

fn run(
    services: &Services,
    domain: &Arc<Domain>,
    handle: &VcpuHandle,
    vcpu: &mut Vcpu,
    continuation: Continuation,
    continued: bool,
) -> Reply {
    let Continuation { number, arguments, progress } = continuation;
    let mut call = Call::new(services, domain, handle, vcpu, progress);
    let outcome = invoke(&mut call, number, arguments, continued)?;
    let progress = call.progress;
    match &outcome {
        Outcome::Done(value) => vcpu.context.registers.rax = *value,
        Outcome::Yielded | Outcome::Blocked => vcpu.context.registers.rax = 0,
        Outcome::Preempted | Outcome::Polling { .. } | Outcome::AwaitingRoom => {
            vcpu.continuation = Some(Continuation { number, arguments, progress });
        }
        Outcome::Resumed | Outcome::Ended => {}
    }
    Ok(outcome)
}

/// Finds and calls the handler, and traces that. `continued`: it was interrupted before.
///
/// # Errors
/// Where the domain cannot go on.
pub(super) fn invoke(call: &mut Call<'_>, number: u64, arguments: Arguments, continued: bool) -> Reply {
    let row = find(number);
    let tracer = call.services.tracer();
    let start = tracer.now();
    let reply = answer(call, row, number, arguments);
    tracer.record(start, |span| Record::Hypercall {
        vcpu: call.handle.key(),
        name: row.map(|row| row.name),
        number,
        arguments,
        called: called(&reply),
        continued,
        span,
    });
    reply
}

/// A reply in a word, for traces.
fn called(reply: &Reply) -> Called {
    match reply {
        Ok(Outcome::Done(value)) => Called::Returned(*value),
        Ok(Outcome::Resumed) => Called::Became("registers loaded"),
        Ok(Outcome::Yielded) => Called::Became("yielded"),
        Ok(Outcome::Blocked) => Called::Became("blocked"),
        Ok(Outcome::Polling { .. }) => Called::Became("polling"),
        Ok(Outcome::AwaitingRoom) => Called::Became("waiting for the console"),
        Ok(Outcome::Preempted) => Called::Became("interrupted"),
        Ok(Outcome::Ended) => Called::Became("the domain ended"),
        Err(_) => Called::Became("the domain crashed"),
    }
}

/// Calls the handler. A refusal becomes what the guest gets.
fn answer(call: &mut Call<'_>, row: Option<&Hypercall>, number: u64, arguments: Arguments) -> Reply {
    let reply = match row {
        Some(row) => {
            let _span = tracing::trace_span!("hypercall", name = row.name, vcpu = call.vcpu.id.0).entered();
            (row.handler)(call, arguments)
        }
        None => Err(Refusal::new(Errno::ENOSYS, "no such hypercall").into()),
    };
    match reply {
        Err(Failure::Refused(refusal)) => {
            let name = row.map_or("unknown", |row| row.name);
            let arguments = arguments.map(|argument| format!("{argument:#x}")).join(", ");
            tracing::debug!(domain = %call.domain.id(), "{name} ({number}) of ({arguments}) is refused: {refusal}");
            Ok(Outcome::Done(refusal.errno.to_return()))
        }
        other => other,
    }
}
