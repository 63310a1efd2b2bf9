//! A grant that a domain maps into its page tables.

use super::{Access, Stop};
use crate::domain::Domain;
use crate::domain::grants::{HostMapping, Record};
use crate::error::Failure;
use crate::paging::{Batch, EntryTarget, Mmu};
use pv_abi::grant_table::{GrantHandle, GrantStatus};
use pv_abi::page_table::PteFlags;
use pv_abi::{GrantRef, Mfn};
use std::sync::Arc;

/// A mapping that a domain asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The domain that lends the page.
    pub granter: Arc<Domain>,
    /// The entry of the granter's table that permits the mapping.
    pub reference: GrantRef,
    /// Whether the page is to be mapped for writing.
    pub access: Access,
    /// Which entry is to map it, if one is.
    pub target: Option<EntryTarget>,
    /// Whether it is mapped for a device, too.
    pub device: bool,
    /// The grantee's own bits of that entry.
    pub available: PteFlags,
}

/// Maps what `grantee` wants, in its batch: its handle, and the frame. Whatever the entry mapped before goes.
///
/// # Errors
/// What stopped it; nothing has changed then, unless the domain is lost.
pub fn map(
    mmu: &Mmu,
    grantee: &Domain,
    wanted: Wanted,
    batch: &mut Batch,
) -> Result<(GrantHandle, Mfn), Stop> {
    let handle = grantee.maptrack().lock().reserve().ok_or(Stop::Refused(GrantStatus::NO_SPACE))?;
    let made = map_pinned(mmu, grantee, &wanted, batch);
    let mut maptrack = grantee.maptrack().lock();
    match made {
        Ok((host, frame)) => {
            let Wanted { granter, reference, access, device, .. } = wanted;
            maptrack.fill(handle, Record { granter, reference, access, frame, host, device });
            Ok((handle, frame))
        }
        Err(stop) => {
            maptrack.free(handle);
            Err(stop)
        }
    }
}

/// Pins the entry and maps its frame, where an entry is to do so.
fn map_pinned(
    mmu: &Mmu,
    grantee: &Domain,
    wanted: &Wanted,
    batch: &mut Batch,
) -> Result<(Option<HostMapping>, Mfn), Stop> {
    let Wanted { granter, reference, access, available, .. } = wanted;
    let lent = granter.grants().lock().pin(mmu, granter.id(), *reference, grantee.id(), *access);
    let lent = lent.map_err(Stop::Refused)?;
    let frame = lent.mfn();
    let Some(target) = wanted.target else {
        // Nobody reaches the frame by it.
        mmu.release(lent);
        return Ok((None, frame));
    };
    let stop = match mmu.map_lent(target, lent, *available, batch) {
        Ok(Some(place)) => return Ok((Some(HostMapping { place, target }), frame)),
        Ok(None) => Stop::Preempted,
        Err(Failure::Refused(_)) => Stop::Refused(GrantStatus::GENERAL_ERROR),
        // What it may have mapped stays in use.
        Err(lost) => return Err(Stop::Lost(lost)),
    };
    granter.grants().lock().unpin(mmu, *reference, *access);
    Err(stop)
}
