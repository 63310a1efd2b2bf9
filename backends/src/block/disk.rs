//! A disk: an image as a guest sees it.

use super::image::Image;
use super::rate::{Limit, Rate};
use crate::failures::{Failure, Failures};
use pv_abi::io::block::SECTOR_BYTES;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A disk. It outlives the connections to it.
#[derive(Debug)]
pub struct Disk {
    name: String,
    image: Arc<dyn Image>,
    writable: bool,
    /// None where it may be used as fast as it can.
    rate: Option<Mutex<Rate>>,
    /// A flush has failed. What was written before may be lost while the host's kernel no longer knows of it, so a later
    /// flush that succeeds would promise what is not so.
    lost_writes: AtomicBool,
    failures: Failures,
}

impl Disk {
    /// The disk in `image`, under the name that messages call it by: usually the image's path. Bytes behind the last
    /// whole sector are no part of it.
    pub fn new(name: impl Into<String>, image: Arc<dyn Image>, writable: bool) -> Self {
        let (lost_writes, failures) = Default::default();
        Self { name: name.into(), image, writable, rate: None, lost_writes, failures }
    }

    /// The same, to be used no faster than that: over all connections, so that nobody gains by a new one.
    pub fn limited(mut self, limit: Limit) -> Self {
        self.rate = Rate::new(limit, Instant::now()).map(Mutex::new);
        self
    }

    /// What the disk is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its sectors, of [`SECTOR_BYTES`].
    pub fn sectors(&self) -> u64 {
        self.image.bytes() / SECTOR_BYTES
    }

    /// Whether it may be written.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// What the disk's sectors are kept in.
    pub fn image(&self) -> &Arc<dyn Image> {
        &self.image
    }

    /// What has failed on the host's side.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// How long its user's next request must wait.
    pub(super) fn delay(&self) -> Duration {
        self.with_rate(|rate| rate.wait(Instant::now())).unwrap_or_default()
    }

    /// A request of that many bytes is being done.
    pub(super) fn charge(&self, bytes: u64) {
        self.with_rate(|rate| rate.take(bytes));
    }

    fn with_rate<R>(&self, action: impl FnOnce(&mut Rate) -> R) -> Option<R> {
        Some(action(&mut self.rate.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(super) fn flush_failed(&self) {
        self.lost_writes.store(true, Ordering::SeqCst);
    }

    /// May a flush promise anything?
    pub(super) fn check_flushes(&self) -> io::Result<()> {
        match self.lost_writes.load(Ordering::SeqCst) {
            true => Err(io::Error::other("a flush has failed before, so writes may be lost")),
            false => Ok(()),
        }
    }
}

/// Nobody uses it any more.
impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.image.write_back() {
            let outcome = "what the guest has not flushed may be lost";
            let place = String::new();
            self.failures.add(&Failure { operation: "closing the image", place, error: &error, outcome });
        }
    }
}
