//! A guest's way to xenstore.

use super::{HostDomain, Service};
use backends::Disconnect;
use backends::xenstore::{End, GuestServer, StoreHandle};
use pv_abi::{EventPort, GrantRef};
use std::sync::Arc;

/// Serves `host`'s guest, which was introduced to `store` and waits on `port`. `ended` is called where it ends before it
/// is stopped.
///
/// # Errors
/// Where the guest has no such ring, or the host no thread.
pub fn start_store(
    host: Arc<HostDomain>,
    port: EventPort,
    store: &StoreHandle,
    ended: impl FnOnce(&End) + Send + 'static,
) -> Result<Service<End>, Disconnect> {
    let guest = host.guest.id();
    let server = GuestServer::connect(host, guest, GrantRef::XENSTORE, port, store)?;
    let bell = Arc::clone(server.bell());
    Service::start(format!("{guest} xenstore"), bell, move |stop| server.run(stop), ended)
}
