//! What the host domain serves a running domain with.

use super::session::Session;
use crate::cli::printing::output::Output;
use crate::cli::printing::stderr::RateLimit;
use crate::cli::status::Failure;
use backends::Disconnect;
use backends::block::Disk;
use hypervisor::control::FilledDomain;
use hypervisor::domain::Domain;
use hypervisor::host_domain::DomainServices;
use std::sync::Arc;

/// Starts what serves a domain that has not started.
pub fn serve(
    session: &Session<'_>,
    domain: &Arc<Domain>,
    filled: &FilledDomain,
    output: Output,
) -> Result<DomainServices, Failure> {
    let domain_output = session.domain_output.clone();
    let warn = move |what: &str| domain_output.warn(what);
    let console = (session.focus.input(session.index), output);
    let mmu = &session.hypervisor.services().mmu;
    let mut services =
        DomainServices::start(mmu, domain, filled, &session.store, console, warn).map_err(Failure::new)?;
    for (index, disk) in (0..).zip(&session.guest.disks) {
        let (name, domain_output) = (disk.name().to_owned(), session.domain_output.clone());
        let (failing, device) = (session.domain_output.clone(), name_of(index, disk, session));
        disk.failures().tell_by(move |what| failing.warn(&format!("{device}: {what}")));
        let limit = RateLimit::default();
        let failed = move |reason: &Disconnect| {
            if let Some(more) = limit.happened() {
                domain_output.warn(&format!("disk {name} is disconnected: {reason}{more}"));
            }
        };
        services.attach_disk(Arc::clone(disk), failed).map_err(Failure::new)?;
    }
    Ok(services)
}

/// The end of a disk's customary name: a to z, then aa to zz.
fn letters(index: u8) -> String {
    let letter = |n: u8| char::from(b'a'.saturating_add(n % 26));
    match index / 26 {
        0 => letter(index).into(),
        more => [letter(more.saturating_sub(1)), letter(index)].iter().collect(),
    }
}

/// What a disk is called in messages.
fn name_of(index: u8, disk: &Disk, session: &Session<'_>) -> String {
    let device = format!("disk xvd{} ({})", letters(index), disk.name());
    // Where there are several domains, the line is marked.
    match session.domain_output.is_one_of_several() {
        true => device,
        false => format!("domain {}, {device}", session.guest.spec.name),
    }
}

#[cfg(test)]
mod tests {
    use super::letters;

    #[test]
    fn disks_have_the_names_that_guests_give_them() {
        for (index, name) in [(0, "a"), (25, "z"), (26, "aa"), (51, "az"), (52, "ba"), (63, "bl")] {
            assert_eq!(letters(index), name);
        }
    }
}
