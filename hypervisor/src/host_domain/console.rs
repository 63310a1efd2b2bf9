//! A guest's console.

use super::{HostDomain, Service, ServiceEnd};
use backends::Disconnect;
use backends::console::{Console, Input};
use backends::driver::{LifecycleEnd, ServiceControl, serve_as_told};
use pv_abi::{EventPort, GrantRef};
use std::io::Write;
use std::sync::Arc;

/// Serves the console of `host`'s guest, which waits on `port`: `input` to the guest, its output to `sink`. `ended` is
/// called where it ends before it is stopped.
///
/// # Errors
/// Where the guest has no such console, or the host no thread.
pub fn start_console(
    host: &Arc<HostDomain>,
    port: EventPort,
    input: Arc<Input>,
    sink: impl Write + Send + 'static,
    ended: impl FnOnce(&ServiceEnd) + Send + 'static,
) -> Result<Service, Disconnect> {
    let guest = host.guest.id();
    let mut console = Console::connect(host, guest, GrantRef::CONSOLE, port, input, sink)?;
    let control = Arc::new(ServiceControl::new(Arc::clone(console.bell())));
    let serve = move |control: &_| serve_as_told(&mut console, control).map(|()| LifecycleEnd::Stopped);
    Service::start(format!("{guest} console"), control, serve, ended)
}
