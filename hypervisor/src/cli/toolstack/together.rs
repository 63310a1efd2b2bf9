//! Guests that are run together.

use super::reboots::run_to_end;
use super::session::{RunningDomain, Session};
use crate::cli::printing::domain_output::DomainOutput;
use crate::cli::status::{Failure, Status};
use hypervisor::builder::Plan;
use std::io;
use std::thread;

/// Runs all guests to their end, each on a thread of its own; the status is the worst of theirs. They are begun one after
/// the other, so that domains have the numbers that their user expects.
///
/// `typed_to` are the outputs of domains that somebody at a terminal can turn to.
pub fn run_together(
    sessions: &[Session<'_>],
    plans: &[Plan],
    typed_to: &[DomainOutput],
) -> Result<Status, Failure> {
    if let [session] = sessions {
        let first = plans.first().map(|plan| session.begin(plan)).transpose()?;
        return first.map_or(Ok(Status::Fine), |first| run_to_end(session, first));
    }
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (session, plan) in sessions.iter().zip(plans) {
            let first = session.begin(plan);
            let name = format!("{} session", session.guest.spec.name);
            let thread = thread::Builder::new().name(name);
            let thread = thread.spawn_scoped(scope, move || run_beside_others(session, first, typed_to));
            // Those that have started need not wait for ever for one that cannot.
            threads.push(thread.inspect_err(|_| session.exit.leave()));
        }
        let threads = threads.into_iter().collect::<io::Result<Vec<_>>>();
        let threads = threads.map_err(|error| Failure::about("a thread cannot be started", error))?;
        // A panic has ended the process.
        let statuses = threads.into_iter().filter_map(|thread| thread.join().ok());
        Ok(statuses.max_by_key(|status| status.severity()).unwrap_or(Status::Fine))
    })
}

/// Runs a guest to its end, and leaves the keyboard to another then.
fn run_beside_others(
    session: &Session<'_>,
    first: Result<RunningDomain, Failure>,
    typed_to: &[DomainOutput],
) -> Status {
    let status = first.and_then(|first| run_to_end(session, first)).unwrap_or_else(|failure| {
        session.domain_output.warn(&failure.message);
        failure.status
    });
    let next = session.focus.gone(session.index);
    if let Some(domain_output) = next.and_then(|next| typed_to.get(next)) {
        domain_output.attend();
    }
    status
}
