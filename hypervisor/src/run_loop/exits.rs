//! What follows from an exit, and from a hypercall's outcome.

use super::TurnEnd;
use crate::domain::{Domain, End, ExitKind};
use crate::emulate::{Carried, Fault, exception};
use crate::error::Failure;
use crate::hypercall::{Outcome, Reply, dispatch};
use crate::machine::Exit;
use crate::report::crash_report;
use crate::services::Services;
use crate::vcpu::{Mode, Vcpu, VcpuHandle, bounce_trap, bounce_user_syscall};
use pv_abi::trap::Vector;
use std::sync::Arc;

/// What an exit leads to.
pub(super) fn act(
    services: &Services,
    domain: &Arc<Domain>,
    handle: &VcpuHandle,
    vcpu: &mut Vcpu,
    exit: &Exit,
) -> Result<Option<TurnEnd>, Failure> {
    tracing::trace!(domain = %domain.id(), vcpu = vcpu.id.0, ?exit, "exit");
    let (info, mmu) = (handle.info(), &services.mmu);
    let count = |kind| domain.statistics().exit(kind);
    match (exit, vcpu.mode) {
        (Exit::Syscall, _) => {
            count(ExitKind::Syscall);
            return syscall(services, domain, handle, vcpu);
        }
        (Exit::Doorbell, Mode::Kernel) => {
            count(ExitKind::Doorbell);
            return after(dispatch(services, domain, handle, vcpu, false));
        }
        (Exit::Doorbell, Mode::User) => {
            count(ExitKind::Doorbell);
            bounce_trap(vcpu, info, mmu, Vector::GENERAL_PROTECTION.0, 0, 0)?;
        }
        // As an event on an unbound port: it goes nowhere.
        (Exit::Unanswered, _) => count(ExitKind::Unanswered),
        (&Exit::Exception { vector, error_code, cr2 }, _) => {
            count(ExitKind::Exception);
            let fault = Fault { vector, error_code, cr2 };
            if exception(services, vcpu, info, fault)? == Carried::Syscall {
                return syscall(services, domain, handle, vcpu);
            }
        }
        (Exit::Kicked, _) => count(ExitKind::Kicked),
        (Exit::Unhandled { what }, _) => {
            count(ExitKind::Unhandled);
            tracing::debug!(domain = %domain.id(), %what, "#GP for what the machine cannot carry out");
            bounce_trap(vcpu, info, mmu, Vector::GENERAL_PROTECTION.0, 0, 0)?;
        }
    }
    Ok(None)
}

/// `syscall` of 64-bit code: a hypercall of the kernel, or a system call of one of its programs.
fn syscall(
    services: &Services,
    domain: &Arc<Domain>,
    handle: &VcpuHandle,
    vcpu: &mut Vcpu,
) -> Result<Option<TurnEnd>, Failure> {
    match vcpu.mode {
        Mode::Kernel => after(dispatch(services, domain, handle, vcpu, true)),
        Mode::User => bounce_user_syscall(vcpu, handle.info(), &services.mmu).map(|()| None),
    }
}

/// What a hypercall's outcome means for the turn.
pub(super) fn after(reply: Reply) -> Result<Option<TurnEnd>, Failure> {
    Ok(match reply? {
        Outcome::Done(_) | Outcome::Resumed | Outcome::Preempted => None,
        Outcome::Yielded => Some(TurnEnd::Over),
        Outcome::Blocked => Some(TurnEnd::Blocked),
        Outcome::AwaitingRoom => Some(TurnEnd::AwaitingRoom),
        Outcome::Polling { ports, until } => Some(TurnEnd::Polling { ports, until }),
        Outcome::Ended => Some(TurnEnd::Ended),
    })
}

/// Ends a domain that cannot go on, by its own fault or the host's.
pub(super) fn crash(services: &Services, domain: &Domain, vcpu: &Vcpu, failure: &Failure) {
    let report = crash_report(failure, vcpu, &services.mmu, domain.symbols());
    tracing::error!(domain = %domain.id(), %failure, is_hosts = failure.is_hosts(), "domain ended");
    let end = if failure.is_hosts() { End::HostFailed } else { End::Crashed };
    domain.life().end(end(Box::new(report)));
}
