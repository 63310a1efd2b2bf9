//! A guest's console.

use super::{HostDomain, Service};
use backends::Disconnect;
use backends::console::{Console, End, Input};
use pv_abi::{EventPort, GrantRef};
use std::io::Write;
use std::sync::Arc;

/// Serves the console of `host`'s guest, which waits on `port`: `input` to the guest, its output to `sink`. `ended` is
/// called where it ends before it is stopped.
///
/// # Errors
/// Where the guest has no such console, or the host no thread.
pub fn start_console(
    host: Arc<HostDomain>,
    port: EventPort,
    input: Arc<Input>,
    mut sink: impl Write + Send + 'static,
    ended: impl FnOnce(&End) + Send + 'static,
) -> Result<Service<End>, Disconnect> {
    let guest = host.guest.id();
    let bell = Arc::clone(input.bell());
    let console = Console::connect(host, guest, GrantRef::CONSOLE, port, input)?;
    Service::start(format!("{guest} console"), bell, move |stop| console.run(&mut sink, stop), ended)
}
