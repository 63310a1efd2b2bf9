//! A guest's way to xenstore.

use super::{HostDomain, Service, ServiceEnd};
use backends::Disconnect;
use backends::driver::{LifecycleEnd, ServiceControl, serve_as_told};
use backends::xenstore::{GuestServer, StoreHandle};
use pv_abi::{EventPort, GrantRef};
use std::sync::Arc;

/// Serves `host`'s guest, which was introduced to `store` and waits on `port`. `ended` is called where it ends before it
/// is stopped.
///
/// # Errors
/// Where the guest has no such ring, or the host no thread.
pub fn start_store(
    host: &Arc<HostDomain>,
    port: EventPort,
    store: &StoreHandle,
    ended: impl FnOnce(&ServiceEnd) + Send + 'static,
) -> Result<Service, Disconnect> {
    let guest = host.guest.id();
    let mut server = GuestServer::connect(host, guest, GrantRef::XENSTORE, port, store)?;
    let control = Arc::new(ServiceControl::new(Arc::clone(server.bell())));
    let serve = move |control: &_| serve_as_told(&mut server, control).map(|()| LifecycleEnd::Stopped);
    Service::start(format!("{guest} xenstore"), control, serve, ended)
}
