//! Errors of the host, as whoever runs a device is told of them: a line for the first, and a count of those like it.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Failures of one kind are told of no more often than this: a guest can cause as many as it likes.
const INTERVAL: Duration = Duration::from_secs(10);

/// Something that the host was asked for, and did not do.
#[derive(Debug)]
pub struct Failure<'a> {
    /// What was being done, as `writing`. Failures of one operation with one error are of one kind.
    pub operation: &'static str,
    /// Where, as ` sector 8`; may be empty.
    pub place: String,
    /// What the host's call failed with.
    pub error: &'a io::Error,
    /// What became of it, as `the guest was told of an error`.
    pub outcome: &'static str,
}

impl Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, place, error, outcome } = self;
        write!(f, "{operation}{place} failed: {error}; {outcome}")
    }
}

type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// The failures of one device, over all connections to it.
#[derive(Default)]
pub struct Failures {
    tell: OnceLock<Tell>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: u64,
    last: Option<String>,
    kinds: HashMap<Kind, Repeated>,
}

type Kind = (&'static str, ErrorKind, Option<i32>);

/// Failures of one kind, since one was told of.
struct Repeated {
    told: Instant,
    untold: u64,
    last: String,
}

impl Failures {
    /// Has `tell` tell of failures from now on, each time in one line. The first one that is set stays.
    pub fn tell_by(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.tell.set(Box::new(tell));
    }

    /// How many there were, and the last one.
    pub fn total(&self) -> (u64, Option<String>) {
        let state = self.state();
        (state.total, state.last.clone())
    }

    /// Counts one more failure, and tells it where it is the first of its kind.
    pub fn add(&self, failure: &Failure<'_>) {
        self.add_at(failure, Instant::now());
    }

    fn add_at(&self, failure: &Failure<'_>, now: Instant) {
        let line = failure.to_string();
        let kind = (failure.operation, failure.error.kind(), failure.error.raw_os_error());
        let mut state = self.state();
        state.total = state.total.saturating_add(1);
        state.last = Some(line.clone());
        let more = match state.kinds.get_mut(&kind) {
            Some(repeated) if now.saturating_duration_since(repeated.told) < INTERVAL => {
                repeated.untold = repeated.untold.saturating_add(1);
                repeated.last = line;
                return;
            }
            Some(repeated) => {
                repeated.told = now;
                std::mem::take(&mut repeated.untold)
            }
            None => {
                state.kinds.insert(kind, Repeated { told: now, untold: 0, last: String::new() });
                0
            }
        };
        drop(state);
        self.tell(&line, more);
    }

    fn tell(&self, line: &str, more: u64) {
        let Some(tell) = self.tell.get() else { return };
        match more {
            0 => tell(line),
            more => tell(&format!("{line} ({more} more like this since the last one told)")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that were not told of yet are told of in the end.
impl Drop for Failures {
    fn drop(&mut self) {
        let kinds = std::mem::take(&mut self.state().kinds);
        for repeated in kinds.into_values().filter(|repeated| repeated.untold != 0) {
            self.tell(&repeated.last, repeated.untold.saturating_sub(1));
        }
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failures").field(&self.total()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn failures() -> (Failures, Arc<Mutex<Vec<String>>>) {
        let (failures, told) = (Failures::default(), Arc::<Mutex<Vec<String>>>::default());
        let lines = Arc::clone(&told);
        failures.tell_by(move |line| lines.lock().unwrap().push(line.to_owned()));
        (failures, told)
    }

    fn fail(failures: &Failures, operation: &'static str, errno: i32, sector: u64, now: Instant) {
        let error = io::Error::from_raw_os_error(errno);
        let (place, outcome) = (format!(" sector {sector}"), "the guest was told of an error");
        failures.add_at(&Failure { operation, place, error: &error, outcome }, now);
    }

    #[test]
    fn the_first_of_each_kind_is_told_and_others_are_counted() {
        let ((failures, told), start) = (failures(), Instant::now());
        for sector in 0..1000 {
            fail(&failures, "writing", libc::ENOSPC, sector, start);
        }
        fail(&failures, "writing", libc::EIO, 7, start);
        fail(&failures, "reading", libc::EIO, 8, start);
        let lines = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("writing sector 0 failed: No space left on device"), "{lines:?}");
        assert!(lines[0].ends_with("; the guest was told of an error"), "{lines:?}");
        fail(&failures, "writing", libc::ENOSPC, 1000, start + INTERVAL);
        let lines = std::mem::take(&mut *told.lock().unwrap());
        assert!(
            lines[0].starts_with("writing sector 1000 ") && lines[0].contains("(999 more like"),
            "{lines:?}"
        );
        assert_eq!(failures.total().0, 1003);
    }

    #[test]
    fn what_was_not_told_is_told_in_the_end() {
        let ((failures, told), start) = (failures(), Instant::now());
        for sector in 0..4 {
            fail(&failures, "writing", libc::ENOSPC, sector, start);
        }
        drop(failures);
        let lines = told.lock().unwrap();
        assert!(lines.len() == 2 && lines[1].starts_with("writing sector 3 "), "{lines:?}");
        assert!(lines[1].contains("(2 more like this"), "{lines:?}");
    }
}
