//! What a device's back-end is, on the host's side.
//!
//! A **driver** knows one class of devices: it says what it offers, and connects to a front-end that has said where its
//! rings are. What comes out is a **device**: a connected back-end, served by a thread of its own ([`run`]) until it
//! is stopped or its front-end cannot be served any more; dropping it ends what it has begun and gives everything back.
//!
//! To write one: implement [`Device`] over a [`pv_abi::ring::BackRing`], then [`Driver`]. `crate::block` is the model.
//!
//! Rules: `serve` does a bounded amount of work and never waits for the front-end; a front-end that breaks the protocol
//! is a [`Disconnect`], with the reason; a request that cannot be done is the device's to answer.

use crate::Disconnect;
use crate::bell::Bell;
use crate::host::Host;
use crate::patience::Patience;
use pv_abi::DomId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Nodes of a device in xenstore: names below its directory, and their values.
pub type Nodes = BTreeMap<String, String>;

/// A front-end that wants to be connected.
pub struct FrontEnd<H> {
    /// The host domain.
    pub host: Arc<H>,
    /// Whose it is.
    pub domain: DomId,
    /// What it has published.
    pub nodes: Nodes,
    /// To be rung by its notifications.
    pub bell: Arc<Bell>,
}

/// A class of devices, for one device of it.
pub trait Driver<H: Host>: Send {
    /// What the front-end may choose from. Published before it is waited for (`XenbusStateInitWait`).
    fn features(&self) -> Nodes;

    /// What the device is. Published before it is connected (`XenbusStateConnected`).
    fn properties(&self) -> Nodes;

    /// Connects. The driver stays, for the front-end's next life.
    ///
    /// # Errors
    /// What the front-end did not say, or said wrongly, or has not granted.
    fn connect(&mut self, front_end: FrontEnd<H>) -> Result<Box<dyn Device>, Disconnect>;
}

/// A back-end that is connected to its front-end.
pub trait Device: Send {
    /// Does what there is to do, a bounded amount of it; true where that was anything.
    ///
    /// # Errors
    /// Why the front-end cannot be served any more.
    fn serve(&mut self) -> Result<bool, Disconnect>;

    /// Asks whoever can bring new work to ring the bell when it comes, and says how long there will be none without
    /// that. It comes meanwhile: then the answer is [`Sleep::No`].
    ///
    /// # Errors
    /// As [`Self::serve`].
    fn prepare_to_sleep(&mut self) -> Result<Sleep, Disconnect>;

    /// Takes no new work, and finishes what was begun.
    ///
    /// # Errors
    /// As [`Self::serve`].
    fn finish(&mut self) -> Result<(), Disconnect>;
}

/// Whether a device's thread may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// There is work.
    No,
    /// Until the bell is rung.
    UntilRung,
    /// No longer than this.
    AtMost(Duration),
}

/// Why a device is served no more.
#[derive(Debug)]
pub enum End {
    /// It was asked to stop, and has finished what it had begun.
    Stopped,
    /// Its front-end cannot be served.
    Disconnected(Disconnect),
}

/// Serves a device until `stop` is set and the bell rung, or it cannot go on.
pub fn run(device: &mut dyn Device, bell: &Bell, stop: &AtomicBool) -> End {
    match serve_until(device, bell, stop) {
        Ok(()) => End::Stopped,
        Err(reason) => End::Disconnected(reason),
    }
}

fn serve_until(device: &mut dyn Device, bell: &Bell, stop: &AtomicBool) -> Result<(), Disconnect> {
    let mut patience = Patience::default();
    // A front-end that always has more to do does not keep its back-end from stopping.
    while !stop.load(Ordering::SeqCst) {
        if device.serve()? {
            continue;
        }
        if poll(device, &patience, stop)? {
            patience.paid_off();
            continue;
        }
        let asleep = Instant::now();
        match device.prepare_to_sleep()? {
            Sleep::No => continue,
            Sleep::UntilRung => bell.listen(),
            Sleep::AtMost(limit) => drop(bell.listen_for(limit)),
        }
        patience.slept(asleep.elapsed());
    }
    device.finish()
}

/// Looks for work as long as patience lasts; true where there was some, and it is done.
fn poll(device: &mut dyn Device, patience: &Patience, stop: &AtomicBool) -> Result<bool, Disconnect> {
    let start = Instant::now();
    while start.elapsed() < patience.time() && !stop.load(Ordering::SeqCst) {
        if device.serve()? {
            return Ok(true);
        }
        std::hint::spin_loop();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Always busy, as a front-end can make it; it counts how it is treated.
    #[derive(Default)]
    struct Busy {
        served: u32,
        finished: u32,
        stop: Arc<AtomicBool>,
    }

    impl Device for Busy {
        fn serve(&mut self) -> Result<bool, Disconnect> {
            self.served += 1;
            self.stop.store(self.served == 100, Ordering::SeqCst);
            if self.served > 100 { Err(Disconnect::Protocol("served on".into())) } else { Ok(true) }
        }

        fn prepare_to_sleep(&mut self) -> Result<Sleep, Disconnect> {
            Err(Disconnect::Protocol("it was busy".into()))
        }

        fn finish(&mut self) -> Result<(), Disconnect> {
            self.finished += 1;
            Ok(())
        }
    }

    #[test]
    fn a_device_that_is_always_busy_stops_when_asked() {
        let mut device = Busy::default();
        let stop = Arc::clone(&device.stop);
        assert!(matches!(run(&mut device, &Bell::default(), &stop), End::Stopped));
        assert_eq!((device.served, device.finished), (100, 1));
    }

    #[test]
    fn a_device_that_cannot_go_on_ends_with_the_reason() {
        let mut device = Busy { served: 100, ..Busy::default() };
        let end = run(&mut device, &Bell::default(), &AtomicBool::new(false));
        assert!(matches!(end, End::Disconnected(Disconnect::Protocol(why)) if why == "served on"));
    }
}
