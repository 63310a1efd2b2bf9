//! Guests that are run together.

use super::life::stay;
use super::session::{Life, Session};
use super::status::{Failure, Status};
use super::voice::Voice;
use hypervisor::builder::Plan;
use std::io;
use std::thread;

/// Lives all guests' lives, each on a thread of its own; the status is the worst of theirs. They are begun one after
/// the other, so that domains have the numbers that their user expects.
///
/// `typed_to` are the voices of domains that somebody at a terminal can turn to.
pub fn live_together(
    sessions: &[Session<'_>],
    plans: &[Plan],
    typed_to: &[Voice],
) -> Result<Status, Failure> {
    if let [session] = sessions {
        let first = plans.first().map(|plan| session.begin(plan)).transpose()?;
        return first.map_or(Ok(Status::Fine), |first| stay(session, first));
    }
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (session, plan) in sessions.iter().zip(plans) {
            let first = session.begin(plan);
            let name = format!("{} session", session.guest.spec.name);
            let thread = thread::Builder::new().name(name);
            let thread = thread.spawn_scoped(scope, move || live_in_company(session, first, typed_to));
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

/// Lives a guest's lives, and leaves the keyboard to another at their end.
fn live_in_company(session: &Session<'_>, first: Result<Life, Failure>, typed_to: &[Voice]) -> Status {
    let status = first.and_then(|first| stay(session, first)).unwrap_or_else(|failure| {
        session.voice.warn(&failure.message);
        failure.status
    });
    let next = session.desk.gone(session.index);
    if let Some(voice) = next.and_then(|next| typed_to.get(next)) {
        voice.attend();
    }
    status
}
