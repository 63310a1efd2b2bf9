//! A thread of the host domain.

use crate::contain::contained;
use backends::Disconnect;
use backends::bell::Bell;
use backends::host::HostError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

/// A thread that serves a guest with one thing, and how that ended.
#[derive(Debug)]
pub struct Service<E> {
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
    thread: JoinHandle<E>,
}

impl<E: From<Disconnect> + Send + 'static> Service<E> {
    /// Serves on a thread of its own, until the flag that `serve` gets is set and `bell` is rung. `ended` is called
    /// where it ends before.
    ///
    /// # Errors
    /// Where the host has no thread.
    pub fn start(
        name: String,
        bell: Arc<Bell>,
        serve: impl FnOnce(&AtomicBool) -> E + Send + 'static,
        ended: impl FnOnce(&E) + Send + 'static,
    ) -> Result<Self, Disconnect> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let body = move || {
            let end = contained(|| serve(&stopped));
            let end = end.unwrap_or_else(|defect| Disconnect::from(HostError::new(defect)).into());
            if !stopped.load(Ordering::SeqCst) {
                ended(&end);
            }
            end
        };
        let thread = Builder::new().name(name.clone()).spawn(body);
        let thread = thread.map_err(|error| HostError::new(format!("a thread for {name}: {error}")))?;
        Ok(Self { stop, bell, thread })
    }

    /// Stops it, once what the guest has left behind is served.
    pub fn finish(self) -> Option<E> {
        self.stop.store(true, Ordering::SeqCst);
        self.bell.ring();
        self.thread.join().ok()
    }
}
