//! Finds the domain's devices in xenstore, and leads each front-end through its life.
//!
//! Each device has a task of its own. All that is said by xenstore is said here: drivers see nodes and states' effects.

mod states;

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};

use pv_abi::io::xenbus::XenbusState;
use pv_abi::{DomId, Errno};

use crate::driver::{DRIVERS, FrontEnd, Nodes};
use crate::sched::executor;
use crate::sched::future::{Signal, race};
use crate::sync::Local;
use crate::time;
use crate::xenstore::{self, Watch};
use states::{Step, step};

/// Directories of devices that have a task.
static ALIVE: Local<BTreeSet<String>> = Local::new(BTreeSet::new());

/// The devices of the start that are not connected yet, and the first look for them.
static STARTING: Local<usize> = Local::new(0);
/// All of these are connected, or never will be.
static SETTLED: Signal<()> = Signal::new();
/// Nobody waits longer for that.
const PATIENCE: u64 = 5 * time::SECOND;

/// Is counted in [`STARTING`] as long as it lives. When the last is dropped, [`SETTLED`] is set.
struct Starting;

impl Starting {
    fn new() -> Self {
        STARTING.with(|count| *count += 1);
        Self
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        STARTING.with(|count| {
            *count -= 1;
            if *count == 0 {
                SETTLED.set(());
            }
        });
    }
}

/// Waits until the devices that the domain was started with can be used.
pub async fn settled() {
    if xenstore::is_present() {
        race(SETTLED.wait(), time::sleep(PATIENCE)).await;
    }
}

/// Starts to look for devices, where there is a store.
pub fn init() {
    if xenstore::is_present() {
        let starting = Starting::new();
        executor::spawn("xenbus", async {
            if let Err(error) = find_devices(starting).await {
                println!("xenbus: devices cannot be looked for: {error}");
            }
        });
    }
}

async fn find_devices(starting: Starting) -> Result<(), Errno> {
    let mut watch = Watch::new("device").await?;
    let mut starting = Some(starting);
    loop {
        // What changes within a device is its own task's business.
        if watch.next().await?.matches('/').count() > 2 {
            continue;
        }
        for driver in DRIVERS {
            let class = driver.class();
            for name in xenstore::directory(&format!("device/{class}")).await.unwrap_or_default() {
                let directory = format!("device/{class}/{name}");
                let Ok(number) = name.parse() else { continue };
                if ALIVE.with(|alive| alive.insert(directory.clone())) {
                    let front_end = driver.front_end(number, &nodes(&directory).await);
                    let starting = starting.as_ref().map(|_| Starting::new());
                    executor::spawn(&format!("{class} {name}"), live(directory, front_end, starting));
                }
            }
        }
        starting = None;
    }
}

/// The task of a device, until the device is gone. What goes wrong is printed, and written into the store.
async fn live(directory: String, mut front_end: Box<dyn FrontEnd>, starting: Option<Starting>) {
    if let Err(reason) = Device::lead(&directory, &mut *front_end, starting).await {
        front_end.disconnect();
        println!("{directory}: {reason}");
        // Where not even that can be said, nobody is there to read it.
        let _ = xenstore::write(&format!("error/{directory}/error"), &reason).await;
        let _ = set_state(&directory, XenbusState::CLOSED).await;
    }
    ALIVE.with(|alive| alive.remove(&directory));
}

/// Where the two ends of a device are.
struct Device<'a> {
    own: &'a str,
    other: String,
    back_end: DomId,
}

impl<'a> Device<'a> {
    /// Takes a device from its start to its removal.
    async fn lead(
        own: &'a str,
        front_end: &mut dyn FrontEnd,
        mut starting: Option<Starting>,
    ) -> Result<(), String> {
        let lost = |error: Errno| format!("xenstore does not tell where its back-end is: {error}");
        let other = xenstore::read(&format!("{own}/backend")).await.map_err(lost)?;
        let back_end: u16 = xenstore::read_as(&format!("{own}/backend-id")).await.map_err(lost)?;
        let device = Self { own, other, back_end: DomId(back_end) };
        let mut watch = Watch::new(&format!("{}/state", device.other)).await.map_err(lost)?;
        let mut state = XenbusState::INITIALISING;
        set_state(own, state).await.map_err(unwritable)?;
        loop {
            watch.next().await.map_err(lost)?;
            loop {
                let step = step(state, device.other_state().await);
                device.take(step, front_end).await?;
                let Some(next) = step.state() else { break };
                state = next;
                if step == Step::Disconnect && device.is_removed().await {
                    return Ok(());
                }
                set_state(own, state).await.map_err(unwritable)?;
                if state == XenbusState::CONNECTED {
                    drop(starting.take());
                }
            }
        }
    }

    async fn take(&self, step: Step, front_end: &mut dyn FrontEnd) -> Result<(), String> {
        match step {
            Step::Publish => {
                let offers = nodes(&self.other).await;
                for (name, value) in front_end.publish(self.back_end, &offers)? {
                    let path = format!("{}/{name}", self.own);
                    xenstore::write(&path, &value).await.map_err(unwritable)?;
                }
            }
            Step::Connect => front_end.connect(&nodes(&self.other).await)?,
            Step::Disconnect => front_end.disconnect(),
            Step::Restart | Step::Wait => {}
        }
        Ok(())
    }

    /// A node that cannot be read means that there is no back-end.
    async fn other_state(&self) -> XenbusState {
        let state = xenstore::read(&format!("{}/state", self.other)).await.unwrap_or_default();
        XenbusState::from_ascii(state.as_bytes())
    }

    async fn is_removed(&self) -> bool {
        xenstore::read(&format!("{}/backend", self.own)).await.is_err()
    }
}

fn unwritable(error: Errno) -> String {
    format!("its nodes cannot be written: {error}")
}

async fn set_state(directory: &str, state: XenbusState) -> Result<(), Errno> {
    xenstore::write(&format!("{directory}/state"), &state.0.to_string()).await
}

/// The nodes right below a directory. What vanishes meanwhile, or is no text, is left out.
async fn nodes(directory: &str) -> Nodes {
    let mut nodes = Nodes::new();
    for name in xenstore::directory(directory).await.unwrap_or_default() {
        if let Ok(value) = xenstore::read(&format!("{directory}/{name}")).await {
            nodes.insert(name, value);
        }
    }
    nodes
}
