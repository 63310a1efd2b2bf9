//! The end of mappings.
//!
//! The order is the whole point: a record is taken, so that it is nobody else's; its entry is cleared; the change is
//! settled; and then the pin is given back, which may tell the granter that its page is its own again.

use super::Stop;
use crate::domain::Domain;
use crate::domain::grants::{HostMapping, Parts, Record};
use crate::error::Failure;
use crate::paging::{Batch, Budget, EntryTarget, Mmu, Progress};
use pv_abi::grant_table::{GrantHandle, GrantStatus};
use pv_abi::{DomId, Mfn};

/// Mappings of one domain whose entries are cleared and not yet settled. It ends with [`Self::finish`].
#[derive(Debug)]
pub struct Unmapping {
    batch: Batch,
    /// The rest of each: where nothing is left, the pin is given back.
    records: Vec<(GrantHandle, Record)>,
}

impl Unmapping {
    /// None yet, of `grantee`'s; ending them may take `budget`.
    pub const fn new(grantee: DomId, budget: Budget) -> Self {
        Self { batch: Batch::new(grantee, budget), records: Vec::new() }
    }

    /// Ends parts of a mapping; the entry of `new`, if there is one, moves to its place.
    ///
    /// # Errors
    /// What stopped it; nothing has changed then, unless the domain is lost.
    pub fn unmap(
        &mut self,
        mmu: &Mmu,
        grantee: &Domain,
        (handle, parts): (GrantHandle, Parts),
        new: Option<EntryTarget>,
    ) -> Result<(), Stop> {
        let (record, rest) = self.take(grantee, handle, parts).map_err(Stop::Refused)?;
        let changed = match record.host.filter(|_| rest.host.is_none()) {
            Some(host) => self.change(mmu, host, record.frame, new),
            None => Ok(()),
        };
        match changed {
            // Nothing of it waits for being settled.
            Ok(()) if rest.host.is_some() => grantee.maptrack().lock().fill(handle, rest),
            Ok(()) => self.records.push((handle, rest)),
            // What may still be mapped stays in use.
            Err(lost @ Stop::Lost(_)) => return Err(lost),
            Err(stop) => {
                grantee.maptrack().lock().fill(handle, record);
                return Err(stop);
            }
        }
        Ok(())
    }

    /// Takes out what is left of a mapping, as [`Maptrack::take`](crate::domain::grants::Maptrack::take) does: a part of it
    /// may have ended in this batch.
    fn take(
        &mut self,
        grantee: &Domain,
        handle: GrantHandle,
        parts: Parts,
    ) -> Result<(Record, Record), GrantStatus> {
        let taken = grantee.maptrack().lock().take(handle, parts);
        if !matches!(taken, Err(GrantStatus::BAD_HANDLE)) {
            return taken;
        }
        let is_it = |(of, rest): &(GrantHandle, Record)| *of == handle && !rest.has_ended();
        let index = self.records.iter().position(is_it).ok_or(GrantStatus::BAD_HANDLE)?;
        let (_, record) = self.records.swap_remove(index);
        match record.without(parts) {
            Ok(rest) => Ok((record, rest)),
            Err(status) => {
                self.records.push((handle, record));
                Err(status)
            }
        }
    }

    /// Clears, or replaces, the entry that maps `frame`.
    fn change(
        &mut self,
        mmu: &Mmu,
        HostMapping { place, target }: HostMapping,
        frame: Mfn,
        new: Option<EntryTarget>,
    ) -> Result<(), Stop> {
        let changed = match (new, target) {
            (None, _) => mmu.unmap_lent(place, frame, &mut self.batch),
            (Some(from), EntryTarget::Linear { .. }) => mmu.replace_lent(place, frame, from, &mut self.batch),
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

    /// Settles, and gives the pins of what has ended back. What is left of the budget comes back, as from [`Mmu::finish`].
    ///
    /// # Errors
    /// The machine's: the domain is lost, and the pins are never given back.
    pub fn finish(self, mmu: &Mmu, grantee: &Domain) -> Result<Budget, Failure> {
        let left = mmu.finish(self.batch)?;
        for (handle, rest) in self.records {
            if rest.has_ended() {
                rest.unpin(mmu);
                grantee.maptrack().lock().free(handle);
            } else {
                grantee.maptrack().lock().fill(handle, rest);
            }
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
