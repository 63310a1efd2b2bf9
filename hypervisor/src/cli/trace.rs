//! `--trace FILE`.
//!
//! The file is begun aside, and stands in its place from when the machine is there. From then on it is written where it
//! is: it holds a whole trace at any time.

use super::files::reason;
use super::new_file::{Kind, NewFile, Published, is_stdout};
use super::status::{Failure, Status};
use crate::cli::commands::args::RunArgs;
use crate::cli::printing::screen;
use crate::cli::say;
use hypervisor::control::Hypervisor;
use hypervisor::trace::{Recorder, Summary, is_trace};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const KIND: Kind = Kind { name: "a trace", is_held_by: begins_as_a_trace };

/// Bytes that tell a trace.
const BEGINNING: u64 = 64;

fn begins_as_a_trace(file: &File) -> io::Result<bool> {
    let mut beginning = Vec::new();
    file.take(BEGINNING).read_to_end(&mut beginning)?;
    Ok(is_trace(&beginning))
}

/// A trace being written; its end is told when it is dropped, if not before.
pub struct Tracing {
    recorder: Recorder,
    path: PathBuf,
    file: Option<NewFile>,
    published: Option<Published>,
}

impl Tracing {
    /// Begins a trace, where one is wanted. A file that cannot be written is found now, if it can be.
    pub fn start(options: &RunArgs) -> Result<Option<Self>, Failure> {
        let Some(path) = options.trace.clone() else { return Ok(None) };
        if is_stdout(&path) {
            let message = "--trace: - is stdout, where the guest's output goes: name a file";
            return Err(Failure { status: Status::Usage, ..Failure::new(message) });
        }
        let failure = |reason: String| failure(&path, &reason);
        let host = |error: io::Error| failure(reason(&error));
        let new = NewFile::create(&path, &KIND, options.force).map_err(failure)?;
        let name = path.display().to_string();
        let failed =
            move |error: &_| say(&format!("--trace: {name}: {}; the trace ends here", reason(error)));
        let recorder = Recorder::start(new.file().try_clone().map_err(host)?, failed).map_err(host)?;
        Ok(Some(Self { recorder, path, file: Some(new), published: None }))
    }

    /// Traces what this hypervisor does, and puts the file in its place. To be called before there are domains.
    pub fn trace(&mut self, hypervisor: &Hypervisor) -> Result<(), Failure> {
        if let Some(file) = self.file.take() {
            self.published = Some(file.publish().map_err(|reason| failure(&self.path, &reason))?);
        }
        hypervisor.services().trace.start(self.recorder.clone());
        Ok(())
    }

    /// What completes the file where the process ends in the midst of things.
    pub fn finisher(&self) -> impl FnOnce() + Send + 'static {
        let (recorder, path) = (self.recorder.clone(), self.path.clone());
        move || {
            let cut_short = recorder.finish().and_then(|summary| summary.cut_short);
            if let Some(error) = cut_short {
                say(&failure(&path, &cut_short_by(&error)).message);
            }
        }
    }

    /// Completes the file and tells what it came to.
    ///
    /// # Errors
    /// It was cut short.
    pub fn finish(self) -> Result<(), Failure> {
        self.tell()
    }

    fn tell(&self) -> Result<(), Failure> {
        let Some(Summary { events, dropped, cut_short }) = self.recorder.finish() else { return Ok(()) };
        if self.published.is_some() {
            screen::traced(&self.path, events, dropped);
        }
        cut_short.map_or(Ok(()), |error| Err(failure(&self.path, &cut_short_by(&error))))
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        self.tell().unwrap_or_else(|failure| say(&failure.message));
    }
}

fn failure(path: &Path, reason: &str) -> Failure {
    Failure::about("--trace", format_args!("{}: {reason}", path.display()))
}

fn cut_short_by(error: &io::Error) -> String {
    format!("the trace was cut short: {}", reason(error))
}
