//! A thread of the host domain.

use crate::contain::contained;
use backends::Disconnect;
use backends::driver::{Command, LifecycleEnd, ServiceControl};
use backends::host::HostError;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// How a service ended: what it served is not wanted any more, or could not be served.
pub type ServiceEnd = Result<LifecycleEnd, Disconnect>;

/// A thread that serves a guest with one thing. Dropped, it is stopped, once what the guest has left behind is served.
#[derive(Debug)]
pub struct Service {
    control: Arc<ServiceControl>,
    /// None once it was waited for.
    thread: Option<JoinHandle<ServiceEnd>>,
}

impl Service {
    /// Serves on a thread of its own, which does what it is told by `control`. `ended` is called where it ends before it
    /// is told to stop.
    ///
    /// # Errors
    /// Where the host has no thread.
    pub(super) fn start(
        name: String,
        control: Arc<ServiceControl>,
        serve: impl FnOnce(&ServiceControl) -> ServiceEnd + Send + 'static,
        ended: impl FnOnce(&ServiceEnd) + Send + 'static,
    ) -> Result<Self, Disconnect> {
        let told = Arc::clone(&control);
        let body = move || {
            let end = contained(|| serve(&told)).unwrap_or_else(|defect| Err(HostError::new(defect).into()));
            told.ended();
            if told.command() != Command::Stop {
                ended(&end);
            }
            end
        };
        let thread = Builder::new().name(name.clone()).spawn(body);
        let thread = thread.map_err(|error| HostError::new(format!("a thread for {name}: {error}")))?;
        Ok(Self { control, thread: Some(thread) })
    }

    /// Finishes what was begun, and touches nothing of the guest until [`Self::resume`]. False where it has ended.
    pub fn pause(&self) -> bool {
        self.control.pause()
    }

    /// Goes on after [`Self::pause`].
    pub fn resume(&self) {
        self.control.resume();
    }

    /// Stops it as dropping it does; how it ended.
    pub fn finish(mut self) -> Option<ServiceEnd> {
        self.stop()
    }

    fn stop(&mut self) -> Option<ServiceEnd> {
        self.control.stop();
        self.thread.take()?.join().ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.stop(); // how it ended was told already
    }
}
