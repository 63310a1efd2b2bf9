//! The loop of a connected device: serve, poll for a while, sleep.

use super::{Command, Device, ServiceControl, Sleep};
use crate::Disconnect;
use crate::bell::Bell;
use crate::patience::Patience;
use std::time::Instant;

/// Serves a device until it is interrupted and the bell rung.
///
/// # Errors
/// Why it cannot go on.
pub fn serve_until(
    device: &mut dyn Device,
    bell: &Bell,
    interrupted: &dyn Fn() -> bool,
) -> Result<(), Disconnect> {
    let mut patience = Patience::default();
    // A front-end that always has more to do does not keep its back-end from looking up.
    while !interrupted() {
        if device.serve()? {
            continue;
        }
        // What interrupts counts as something to do: the loop looks up.
        if patience.poll(|| Ok::<_, Disconnect>(interrupted() || device.serve()?))? {
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
    Ok(())
}

/// Serves a device that is there for as long as its thread, which is told what to do: until it is to stop.
///
/// # Errors
/// Why it cannot go on.
pub fn serve_as_told(device: &mut dyn Device, control: &ServiceControl) -> Result<(), Disconnect> {
    loop {
        match control.command() {
            Command::Serve => serve_until(device, control.bell(), &|| control.is_interrupted())?,
            Command::Pause => {
                device.quiesce()?;
                control.park();
            }
            Command::Stop => return device.quiesce(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Sleep;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Always busy, as a front-end can make it; it counts how it is treated.
    #[derive(Default)]
    struct Busy {
        served: u32,
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

        fn quiesce(&mut self) -> Result<(), Disconnect> {
            Ok(())
        }
    }

    #[test]
    fn a_device_that_is_always_busy_can_be_interrupted() {
        let mut device = Busy::default();
        let stop = Arc::clone(&device.stop);
        assert!(serve_until(&mut device, &Bell::default(), &|| stop.load(Ordering::SeqCst)).is_ok());
        assert_eq!(device.served, 100);
    }

    #[test]
    fn a_device_that_cannot_go_on_ends_with_the_reason() {
        let mut device = Busy { served: 100, ..Busy::default() };
        let end = serve_until(&mut device, &Bell::default(), &|| false);
        assert!(matches!(end, Err(Disconnect::Protocol(why)) if why == "served on"));
    }
}
