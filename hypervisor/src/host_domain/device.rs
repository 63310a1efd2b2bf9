//! A guest's devices: each a life in xenstore, on a thread of its own.

use super::{HostDomain, Service};
use backends::Disconnect;
use backends::block::{BlockDriver, Disk, address};
use backends::driver::{Address, DeviceLifecycle, Driver, create};
use backends::host::HostError;
use backends::xenstore::StoreHandle;
use std::sync::Arc;

/// Gives `host`'s guest its `index`th disk. `failed` is told whenever the guest's front-end could not be served.
///
/// # Errors
/// Where the store or the host refuses.
pub fn start_disk(
    host: Arc<HostDomain>,
    store: &StoreHandle,
    index: u8,
    disk: Arc<Disk>,
    failed: impl Fn(&Disconnect) + Send + 'static,
) -> Result<Service, Disconnect> {
    let address = address(host.guest.id(), index);
    let driver = BlockDriver::new(disk);
    let (front_end, back_end) = driver.nodes(&address);
    let made = create(store, &address, &front_end, &back_end);
    made.map_err(|error| HostError::new(error.to_string()))?;
    start_device(host, store, address, Box::new(driver), failed)
}

fn start_device(
    host: Arc<HostDomain>,
    store: &StoreHandle,
    address: Address,
    driver: Box<dyn Driver<HostDomain>>,
    failed: impl Fn(&Disconnect) + Send + 'static,
) -> Result<Service, Disconnect> {
    let name = format!("{} {} {}", address.domain, address.class, address.number);
    let life = DeviceLifecycle::new(host, store.clone(), address, driver)?;
    let control = Arc::clone(life.control());
    let live = move |_: &_| {
        life.run(&mut |reason| failed(reason)).map_err(|error| HostError::new(error.to_string()).into())
    };
    Service::start(name, control, live, |end| {
        if let Err(reason) = end {
            tracing::error!(%reason, "a device has ended");
        }
    })
}
