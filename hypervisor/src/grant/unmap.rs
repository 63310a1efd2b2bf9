//! The end of mappings.
//!
//! The order is the whole point: a record is taken, so that it is nobody else's; its entry is cleared; the change is
//! settled; and then the pin is given back, which may tell the granter that its page is its own again.

use super::{Record, Stop};
use crate::domain::Domain;
use crate::error::Failure;
use crate::paging::{Batch, Budget, EntryTarget, Mmu, Progress};
use pv_abi::DomId;
use pv_abi::grant_table::{GrantHandle, GrantStatus};

/// Mappings of one domain whose entries are cleared and not yet settled. It ends with [`Self::finish`].
#[derive(Debug)]
pub struct Unmapping {
    batch: Batch,
    records: Vec<(GrantHandle, Record)>,
}

impl Unmapping {
    /// None yet, of `grantee`'s; ending them may take `budget`.
    pub const fn new(grantee: DomId, budget: Budget) -> Self {
        Self { batch: Batch::new(grantee, budget), records: Vec::new() }
    }

    /// Ends the mapping that was made at `address`, which is as the grantee called it; the entry of `new`, if there is
    /// one, moves to its place.
    ///
    /// # Errors
    /// What stopped it; nothing has changed then, unless the domain is lost.
    pub fn unmap(
        &mut self,
        mmu: &Mmu,
        grantee: &Domain,
        (handle, address): (GrantHandle, u64),
        new: Option<EntryTarget>,
    ) -> Result<(), Stop> {
        let record = grantee.maptrack().lock().take(handle, address).map_err(Stop::Refused)?;
        match self.change(mmu, &record, new) {
            Ok(()) => self.records.push((handle, record)),
            // What may still be mapped stays in use.
            Err(lost @ Stop::Lost(_)) => return Err(lost),
            Err(stop) => {
                grantee.maptrack().lock().fill(handle, record);
                return Err(stop);
            }
        }
        Ok(())
    }

    /// Clears, or replaces, the entry of a mapping.
    fn change(&mut self, mmu: &Mmu, record: &Record, new: Option<EntryTarget>) -> Result<(), Stop> {
        let changed = match (new, record.target) {
            (None, _) => mmu.unmap_lent(record.place, record.frame, &mut self.batch),
            (Some(from), EntryTarget::Linear { .. }) => {
                mmu.replace_lent(record.place, record.frame, from, &mut self.batch)
            }
            // As on Xen, only a mapping by linear address is replaced.
            (Some(_), EntryTarget::Machine(_)) => return Err(Stop::Refused(GrantStatus::GENERAL_ERROR)),
        };
        match changed {
            Ok(Progress::Done) => Ok(()),
            Ok(Progress::Preempted) => Err(Stop::Preempted),
            Err(Failure::Refused(_)) => Err(Stop::Refused(GrantStatus::GENERAL_ERROR)),
            Err(lost) => Err(Stop::Lost(lost)),
        }
    }

    /// Settles, and gives the pins back. What is left of the budget comes back, as from [`Mmu::finish`].
    ///
    /// # Errors
    /// The machine's: the domain is lost, and the pins are never given back.
    pub fn finish(self, mmu: &Mmu, grantee: &Domain) -> Result<Budget, Failure> {
        let left = mmu.finish(self.batch)?;
        for (handle, record) in self.records {
            record.unpin(mmu);
            grantee.maptrack().lock().free(handle);
        }
        Ok(left)
    }
}

/// Gives back all that a dead domain had mapped. Its page tables are gone, so nothing of that can be reached any more.
pub fn unmap_all(mmu: &Mmu, grantee: &Domain) {
    let records = grantee.maptrack().lock().drain();
    records.into_iter().for_each(|record| record.unpin(mmu));
}

impl Record {
    fn unpin(self, mmu: &Mmu) {
        self.granter.grants().lock().unpin(mmu, self.reference, self.access);
    }
}
