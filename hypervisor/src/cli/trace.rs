//! `--trace FILE`.

use super::files::reason;
use super::say;
use super::screen;
use super::status::Failure;
use hypervisor::control::Hypervisor;
use hypervisor::trace::{Recorder, Summary};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A trace being written; its end is told when it is dropped.
pub struct Tracing {
    recorder: Recorder,
    path: PathBuf,
}

impl Tracing {
    /// Starts a trace, where one is wanted. A file that cannot be written is found now, if it can be.
    pub fn start(path: Option<&Path>) -> Result<Option<Self>, Failure> {
        let Some(path) = path else { return Ok(None) };
        let failure =
            |error| Failure::about("--trace", format_args!("{}: {}", path.display(), reason(&error)));
        let file = File::create(path).map_err(failure)?;
        let name = path.display().to_string();
        let failed =
            move |error: &_| say(&format!("--trace: {name}: {}; the trace ends here", reason(error)));
        let recorder = Recorder::start(file, failed).map_err(failure)?;
        Ok(Some(Self { recorder, path: path.to_owned() }))
    }

    /// Traces what this hypervisor does. To be called before it has domains.
    pub fn trace(&self, hypervisor: &Hypervisor) {
        hypervisor.services().trace.start(self.recorder.clone());
    }

    /// What completes the file where the process ends in the midst of things.
    pub fn finisher(&self) -> impl FnOnce() + Send + 'static {
        let recorder = self.recorder.clone();
        move || {
            // Nobody is left to be told of its summary.
            let _ = recorder.finish();
        }
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Some(Summary { events, dropped }) = self.recorder.finish() {
            screen::traced(&self.path, events, dropped);
        }
    }
}
