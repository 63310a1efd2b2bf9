//! A guest from its start to its end, reboots in between, and how it ended.

use super::session::{RunningDomain, Session};
use crate::cli::printing::screen::{self, Summary, Telling, Validation};
use crate::cli::status::{Failure, Status};
use hypervisor::domain::{DomainEnd, End};
use pv_abi::sched::ShutdownReason;
use std::fmt;
use std::time::Duration;

/// Runs a guest to its end: one that reboots is built anew, without the commands that it was given.
pub fn run_to_end(session: &Session<'_>, first: RunningDomain) -> Result<Status, Failure> {
    let mut running = first;
    let mut reboots = Reboots::default();
    loop {
        let (born, validation_before) = (running.born, running.validation_before);
        let end = session.wait_for_end(running);
        session.domain_output.end();
        if let Some(failure) = session.exit.take_failure() {
            return Err(failure);
        }
        let time = born.elapsed();
        let validation = Validation::of(&session.hypervisor).since(validation_before);
        let told = || tell(session, &end, time, validation);
        if session.exit.is_over() || end.reason() != ShutdownReason::REBOOT {
            return Ok(told());
        }
        match reboots.wait(time) {
            Some(wait) => {
                if !wait.is_zero() {
                    session
                        .domain_output
                        .warn(&format!("{reboots}: it is started again in {:.1} s", wait.as_secs_f64()));
                }
                if session.exit.is_over_within(wait) {
                    return Ok(told());
                }
            }
            None => {
                session.domain_output.warn(&format!("{reboots}: it is not started again"));
                return Ok(told());
            }
        }
        session.focus.guest_restarts(session.index);
        let plan = session.guest.plan(session.guest.commands.after_a_reboot())?;
        running = session.begin(&plan)?;
    }
}

/// A life that a reboot ends before this is a short one.
const SHORT: Duration = Duration::from_secs(10);
/// The wait after the second short life in a row; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Short lives in a row that are followed by another.
const MOST: u32 = 8;

/// How often a guest has rebooted soon after its start, without a longer life in between. Each start costs the host time
/// that no guest pays for.
#[derive(Debug, Default)]
struct Reboots(u32);

impl Reboots {
    /// How long the next start is to wait after a life of this length; none where there is to be no other.
    fn wait(&mut self, life: Duration) -> Option<Duration> {
        self.0 = if life < SHORT { self.0.saturating_add(1) } else { 0 };
        match self.0 {
            0 | 1 => Some(Duration::ZERO),
            short if short > MOST => None,
            short => {
                let factor = 1_u32.checked_shl(short.saturating_sub(2)).unwrap_or(u32::MAX);
                Some(FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT))
            }
        }
    }
}

impl fmt::Display for Reboots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = SHORT.as_secs();
        write!(f, "the guest has rebooted {} times in a row, each within {within} s of its start", self.0)
    }
}

/// Tells how it ended, and what that means to whoever started it.
fn tell(session: &Session<'_>, end: &DomainEnd, time: Duration, validation: Validation) -> Status {
    if let Some(report) = end.report() {
        session.domain_output.tell(&report.to_string());
    }
    let (status, how) = judge(end, session.exit.signal().is_some(), session.exit.has_left());
    if status == Status::Crashed {
        session.domain_output.tell_last_lines();
    }
    session.exit.note_end(&session.guest.spec.name, &how);
    let statistics = &end.statistics;
    let summary = Summary {
        time,
        exits: statistics.exits.iter().map(|(_, count)| count).sum(),
        hypercalls: statistics.hypercalls.iter().map(|(_, count)| count).sum(),
        validation,
    };
    let Telling { statistics: in_detail, json } = session.telling;
    if json {
        let name = &session.guest.spec.name;
        screen::ended_as_json(name, &how, status, summary, in_detail.then_some(statistics));
        return status;
    }
    screen::ended(&session.domain_output, &how, summary);
    if in_detail {
        screen::statistics(&session.domain_output, statistics);
    }
    status
}

/// What an end means to whoever started the guest, and how it is told: after a signal, or where the user has left.
fn judge(end: &DomainEnd, signalled: bool, left: bool) -> (Status, String) {
    match &end.end {
        End::Destroyed if signalled => (Status::Fine, "was ended".to_owned()),
        End::Destroyed | End::Shutdown(ShutdownReason::REBOOT) if left => (Status::Fine, "left".to_owned()),
        End::Shutdown(ShutdownReason::POWEROFF) if end.status == 0 => {
            (Status::Fine, "powered off".to_owned())
        }
        End::Shutdown(ShutdownReason::POWEROFF) => {
            (Status::Failed, format!("powered off with status {}", end.status))
        }
        End::Shutdown(ShutdownReason::CRASH | ShutdownReason::WATCHDOG) | End::Crashed(_) => {
            (Status::Crashed, "crashed".to_owned())
        }
        End::HostFailed(_) => (Status::Configuration, "was ended by a failure of the host".to_owned()),
        other => (Status::Failed, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypervisor::domain::CrashReport;
    use hypervisor::domain::StatisticsSnapshot;
    use hypervisor::vcpu::Mode;
    use pv_abi::{DomId, VcpuId};

    #[test]
    fn a_failure_of_the_host_is_no_crash_of_the_guest() {
        let report = |is_hosts| {
            Box::new(CrashReport {
                reason: "KVM_RUN: broken".into(),
                is_hosts,
                domain: DomId(1),
                vcpu: VcpuId(0),
                mode: Mode::Kernel,
                registers: Default::default(),
                selectors: (0, 0),
                code: Vec::new(),
                privileged: None,
                calls: Vec::new(),
            })
        };
        let judged = |end| {
            let end = DomainEnd { end, status: 0, statistics: StatisticsSnapshot::default() };
            let (status, how) = judge(&end, false, false);
            (status.code(), how)
        };
        assert_eq!(judged(End::Shutdown(ShutdownReason::POWEROFF)), (0, "powered off".into()));
        assert_eq!(judged(End::Stopped), (4, "stopped its last vCPU".into()));
        assert_eq!(judged(End::Crashed(report(false))), (3, "crashed".into()));
        let how = "was ended by a failure of the host";
        assert_eq!(judged(End::HostFailed(report(true))), (1, how.into()));
        let told = End::HostFailed(report(true)).to_string();
        assert_eq!(told, "the host failed: KVM_RUN: broken");
        assert!(
            report(true).to_string().starts_with("d1 vCPU 0 cannot go on in Kernel mode: the host failed: ")
        );
        assert!(report(false).to_string().starts_with("d1 vCPU 0 crashed in Kernel mode: KVM_RUN: broken"));
    }

    #[test]
    fn a_guest_that_reboots_for_ever_waits_longer_and_longer_and_is_given_up() {
        let (mut reboots, brief) = (Reboots::default(), Duration::from_millis(3));
        let waits: Vec<_> =
            std::iter::from_fn(|| reboots.wait(brief)).take(99).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000]);
        let text = "the guest has rebooted 9 times in a row, each within 10 s of its start";
        assert_eq!(reboots.to_string(), text);
        assert_eq!(reboots.wait(SHORT), Some(Duration::ZERO), "a longer life makes up for them");
        assert_eq!([reboots.wait(brief), reboots.wait(brief)], [Some(Duration::ZERO), Some(FIRST_WAIT)]);
    }
}
