//! Doorbells of ports that are connected to the host domain.
//!
//! - A doorbell belongs to the [`HostEnd`](crate::domain::ports::HostEnd) in the guest's table, and comes and goes under the
//!   table's lock: once a port is closed, or the host has let go of it, no ring of it arrives, and the number may mean
//!   another (`doorbell_tests::a_doorbell_goes_with_the_connection`).
//! - It rings the bell of that very end: the value is the port's number, the page the domain's own
//!   (`doorbell_tests::each_doorbell_rings_one_back_end`).
//! - A domain has no more than its page has room for, so all domains together have no more than the host
//!   (`doorbell_tests::a_domain_has_so_many_doorbells_and_no_more`).

use crate::domain::Domain;
use crate::domain::ports::{Doorbell, PortState, checked_port};
use crate::error::Refusal;
use crate::machine::{DOORBELLS_PER_PAGE, Doorbells};
use pv_abi::{Errno, EventPort};
use std::sync::Arc;

/// Hangs up a doorbell for a port of `domain`, which has the doorbell page `page`; one that hangs already stays.
///
/// # Errors
/// −EINVAL for a port that is closed or not connected to the host domain, −EOPNOTSUPP where its back-end hears none,
/// −ENOSPC where the domain has as many as it may, or the host no room.
pub fn hang_doorbell(
    doorbells: &Arc<dyn Doorbells>,
    page: usize,
    domain: &Domain,
    port: EventPort,
) -> Result<(), Refusal> {
    let port = checked_port(port)?;
    let mut table = domain.ports().lock();
    let hanging = table.doorbells();
    let PortState::Host(host) = &mut table.get_mut(port)?.state else {
        return Err(Refusal::new(Errno::EINVAL, "the port is not connected to the host domain"));
    };
    if host.doorbell.is_some() {
        return Ok(());
    }
    if hanging >= DOORBELLS_PER_PAGE {
        return Err(Refusal::new(Errno::ENOSPC, "the domain has as many doorbells as it may"));
    }
    match Doorbell::hang(doorbells, page, port.0, &host.port) {
        Some(Ok(doorbell)) => host.doorbell = Some(doorbell),
        None => return Err(Refusal::new(Errno::EOPNOTSUPP, "the back-end hears no doorbell")),
        Some(Err(error)) => {
            tracing::warn!(domain = %domain.id(), ?port, %error, "it notifies by hypercall");
            return Err(Refusal::new(Errno::ENOSPC, "the host has no room for a doorbell"));
        }
    }
    Ok(())
}
