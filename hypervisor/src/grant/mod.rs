//! Grants: a domain lends pages of its own to another.
//!
//! A domain's table ([`GrantTable`]) stands in frames that it writes itself: it is what the domain allows, and says with
//! two bits of each entry what is in use. What *is* in use is known here: of the granter, how often each entry is
//! pinned; of the grantee, each mapping ([`Maptrack`]).
//!
//! Invariants, with the tests that guard them (`tests`):
//! - An entry is read once, and its bits are set by compare-exchange with what was read: what a granter writes
//!   meanwhile is either seen or makes the pin fail. While an entry is pinned its frame is what it was at the first pin.
//! - The record alone is the truth for unmapping: place, frame, granter and access are what they were when it was made
//!   (`what_is_mapped_cannot_be_hidden`).
//! - An entry in use is marked so until no pcpu can reach the frame through the mapping: a record is taken, its entry
//!   cleared, the change settled, its reference given back, and only then the pin
//!   (`a_revocation_is_complete_when_it_returns`, `a_page_that_is_free_is_its_lenders_own`).
//! - A mapped frame is kept by the reference of the page-table entry that maps it, so an entry which goes by itself, or
//!   with its table, leaves a record without a mapping, and never a mapping without a record.
//! - Death of either side: a granter's table is closed and never written again, its frames stay until the last mapping
//!   is gone; a grantee's records are given back when its page tables are (`either_side_may_die`).
//! - Both sides are bounded: a table by its frames, a grantee by [`MAX_MAPPINGS`].
//!
//! What all of this accepts, refuses and leaves is what the reference model in `tests/model` does, which has no mappings for
//! devices.
//!
//! There are no transfers, no transitive grants, and version 1 of the format only.
//!
//! Locks: the grantee's records, and the granter's table; never both. The table's is held over [`crate::paging`]'s.
//!
//! [`GrantTable`]: crate::domain::grants::GrantTable
//! [`Maptrack`]: crate::domain::grants::Maptrack
//! [`MAX_MAPPINGS`]: crate::domain::grants::MAX_MAPPINGS

mod copy;
mod host;
mod map;
mod unmap;

#[cfg(test)]
mod tests;

pub use backend_interface::host::Access;
pub use copy::{Side, copy};
pub use host::HostGrant;
pub use map::{Wanted, map};
pub use unmap::{Unmapping, unmap_all};

use crate::domain::{Domain, Domains};
use crate::error::Failure;
use crate::paging::EntryPlace;
use pv_abi::Mfn;
use pv_abi::grant_table::GrantStatus;

/// What keeps a mapping from being made, or ended.
#[derive(Debug)]
pub enum Stop {
    /// Xen's status, and nothing has changed.
    Refused(GrantStatus),
    /// The budget ended before; the same, tried again, goes on.
    Preempted,
    /// The machine has failed, and the grantee cannot go on.
    Lost(Failure),
}

/// Every place where an entry may name a frame that another domain lends, for [`crate::paging::Mmu::audit_lending`].
pub fn lent_entries(domains: &Domains) -> Vec<(EntryPlace, Mfn)> {
    domains.all().iter().flat_map(|domain| entries_of(domain)).collect()
}

/// The same of one domain.
pub fn entries_of(domain: &Domain) -> Vec<(EntryPlace, Mfn)> {
    let maptrack = domain.maptrack().lock();
    maptrack.iter().filter_map(|(_, record)| Some((record.host?.place, record.frame))).collect()
}
