//! What is logged on stderr: by `PARAVANE_LOG`, what that asks for; without it, what `-v` asks for, or defects only.

use super::stderr;
use crate::cli::say;
use crate::cli::status::{Failure, Status};
use hypervisor::defect;
use std::env::{VarError, var};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines about defects that are shown. A defect comes seldom alone, and the first are those that tell.
const MOST_DEFECTS: usize = 20;

/// Starts logging: `-v` so often.
pub fn start(verbosity: u8) -> Result<(), Failure> {
    let log = match var("PARAVANE_LOG") {
        Ok(wanted) => Some(filter(&wanted).map_err(refused)?),
        Err(VarError::NotPresent) => match verbosity {
            0 => None,
            1 => Some(EnvFilter::new("info")),
            _ => Some(EnvFilter::new("debug")),
        },
        Err(VarError::NotUnicode(_)) => return Err(refused("it is no text".into())),
    };
    let log = log.map(|filter| {
        let lines = tracing_subscriber::fmt::layer().with_writer(|| stderr::Log).log_internal_errors(false);
        let others = filter_fn(|metadata| metadata.target() != defect::TARGET);
        lines.with_ansi(io::stderr().is_terminal()).with_filter(filter.and(others))
    });
    let defects = Defects::new(say).with_filter(filter_fn(|metadata| metadata.target() == defect::TARGET));
    tracing_subscriber::registry().with(defects).with(log).init();
    Ok(())
}

fn refused(message: String) -> Failure {
    Failure { status: Status::Usage, ..Failure::about("PARAVANE_LOG", message) }
}

/// Reads what is to be logged: a level, or levels of modules.
fn filter(text: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    const MODULES: [&str; 3] = ["hypervisor", "backends", "paravane"];
    let is_level = |word: &str| LEVELS.contains(&word.to_ascii_lowercase().as_str());
    for word in text.split(',').map(str::trim) {
        let (module, level) =
            word.split_once('=').map_or((None, word), |(module, level)| (Some(module), level));
        let known =
            module.is_none_or(|module| MODULES.contains(&module.split("::").next().unwrap_or_default()));
        if !is_level(level) || !known {
            let levels = LEVELS.join(", ");
            return Err(format!(
                "{word:?} is none of the levels {levels}, and no level of a module, such as hypervisor::paging=trace"
            ));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

/// Shows defects of the hypervisor to whoever runs it.
struct Defects<S> {
    show: S,
    shown: AtomicUsize,
}

impl<S: Fn(&str)> Defects<S> {
    fn new(show: S) -> Self {
        Self { show, shown: AtomicUsize::new(0) }
    }
}

impl<T: Subscriber, S: Fn(&str) + 'static> Layer<T> for Defects<S>
where
    Self: 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, T>) {
        match self.shown.fetch_add(1, Ordering::Relaxed) {
            0..MOST_DEFECTS => {
                let mut line = Line::default();
                event.record(&mut line);
                (self.show)(&format!("internal error, please report it: {}{}", line.message, line.fields));
            }
            MOST_DEFECTS => (self.show)("further internal errors are not shown"),
            _ => {}
        }
    }
}

/// An event as a line: what it says, and then its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name} {value:?}"),
        };
        debug_assert!(written.is_ok(), "strings take everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_filter_is_levels_and_nothing_else() {
        for fine in
            ["debug", "WARN", "off", "hypervisor::paging=trace", "info,backends=debug", "paravane=error"]
        {
            assert!(filter(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "",
            "debgu",
            "hypervisor",
            "hypervisor=loud",
            "hypervizor=debug",
            "debug,,info",
            "7",
            "[x]=debug",
        ] {
            let error = filter(wrong).unwrap_err();
            assert!(
                error.contains("debug, trace") && error.contains("hypervisor::paging=trace"),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn defects_are_shown_without_being_asked_for_and_not_without_end() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&lines);
        let defects = Defects::new(move |line: &str| shown.lock().unwrap().push(line.to_owned()));
        let only = filter_fn(|metadata| metadata.target() == defect::TARGET);
        let subscriber = tracing_subscriber::registry().with(defects.with_filter(only));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("the guest's own trouble");
            for number in 0..30 {
                tracing::error!(target: defect::TARGET, frame = %"mfn 7", number, "reference count defect");
            }
        });
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), MOST_DEFECTS + 1);
        let first = "internal error, please report it: reference count defect, frame mfn 7, number 0";
        assert_eq!(
            (lines[0].as_str(), lines[MOST_DEFECTS].as_str()),
            (first, "further internal errors are not shown")
        );
    }
}
