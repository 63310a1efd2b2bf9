//! A guest's lives, from the first to the last, and how that one ended.

use super::screen::{self, Summary, Validation};
use super::session::{Life, Session};
use super::status::{Failure, Status};
use hypervisor::domain::{DomainEnd, End};
use pv_abi::sched::ShutdownReason;
use std::time::Duration;

/// Lives a guest's lives: one that reboots is built anew, without the commands that it was given.
pub fn stay(session: &Session<'_>, first: Life) -> Result<Status, Failure> {
    let mut life = first;
    loop {
        let born = life.born;
        let end = session.outlast(life);
        if let Some(failure) = session.exit.take_failure() {
            return Err(failure);
        }
        let left = session.exit.has_left();
        if left || end.reason() != ShutdownReason::REBOOT {
            return Ok(tell(session, &end, born.elapsed(), left));
        }
        session.desk.guest_restarts(session.index);
        let plan = session.guest.plan(session.guest.commands.after_a_reboot())?;
        life = session.begin(&plan)?;
    }
}

/// Tells how it ended, and what that means to whoever started it.
fn tell(session: &Session<'_>, end: &DomainEnd, time: Duration, left: bool) -> Status {
    session.voice.end();
    if let Some(report) = end.report() {
        session.voice.tell(&report.to_string());
    }
    let (status, how) = match &end.end {
        End::Destroyed if left => (Status::Fine, "left".to_owned()),
        End::Shutdown(ShutdownReason::POWEROFF) if end.status == 0 => {
            (Status::Fine, "powered off".to_owned())
        }
        End::Shutdown(ShutdownReason::POWEROFF) => {
            (Status::Failed, format!("powered off with status {}", end.status))
        }
        End::Shutdown(ShutdownReason::CRASH | ShutdownReason::WATCHDOG) | End::Crashed(_) => {
            (Status::Crashed, "crashed".to_owned())
        }
        other => (Status::Failed, other.to_string()),
    };
    let statistics = &end.statistics;
    let summary = Summary {
        time,
        exits: statistics.exits.iter().map(|(_, count)| count).sum(),
        hypercalls: statistics.hypercalls.iter().map(|(_, count)| count).sum(),
        validation: Validation { validated: statistics.validated, refused: statistics.refused },
    };
    screen::ended(&session.voice, &how, summary);
    if session.statistics {
        screen::statistics(&session.voice, statistics);
    }
    status
}
