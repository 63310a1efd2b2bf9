//! The mappings that a domain has of what others grant it.

use super::Access;
use crate::domain::Domain;
use crate::paging::{EntryPlace, EntryTarget};
use pv_abi::grant_table::{GrantHandle, GrantStatus};
use pv_abi::{GrantRef, Mfn};
use std::sync::Arc;

/// Mappings that a domain can have at a time.
pub const MAX_MAPPINGS: usize = 8192;

/// One mapping: the only truth about it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who lends.
    pub granter: Arc<Domain>,
    /// By which entry.
    pub reference: GrantRef,
    /// For what.
    pub access: Access,
    /// Which frame.
    pub frame: Mfn,
    /// Where it was mapped.
    pub place: EntryPlace,
    /// What the grantee called that place.
    pub target: EntryTarget,
}

/// A domain's mappings, by handle.
#[derive(Clone, Debug, Default)]
pub struct Maptrack {
    records: Vec<Option<Record>>,
    free: Vec<GrantHandle>,
}

impl Maptrack {
    /// A handle that nobody else gets until it is freed; none where the domain has as many mappings as it may.
    pub fn reserve(&mut self) -> Option<GrantHandle> {
        if let Some(handle) = self.free.pop() {
            return Some(handle);
        }
        let handle = u32::try_from(self.records.len()).ok().filter(|_| self.records.len() < MAX_MAPPINGS)?;
        self.records.push(None);
        Some(GrantHandle(handle))
    }

    /// Keeps a mapping under a reserved handle.
    pub fn fill(&mut self, handle: GrantHandle, record: Record) {
        if let Some(slot) = self.records.get_mut(handle.0 as usize) {
            debug_assert!(slot.is_none(), "{handle:?} is in use");
            *slot = Some(record);
        }
    }

    /// Takes out the mapping that was made at `address`; its handle stays reserved.
    ///
    /// # Errors
    /// Xen's status where the handle is no mapping's, or the address is another.
    pub fn take(&mut self, handle: GrantHandle, address: u64) -> Result<Record, GrantStatus> {
        let slot = self.records.get_mut(handle.0 as usize).ok_or(GrantStatus::BAD_HANDLE)?;
        match slot {
            None => Err(GrantStatus::BAD_HANDLE),
            Some(record) if record.target.address() != address => Err(GrantStatus::GENERAL_ERROR),
            Some(_) => slot.take().ok_or(GrantStatus::BAD_HANDLE),
        }
    }

    /// A reserved handle may be another mapping's.
    pub fn free(&mut self, handle: GrantHandle) {
        self.free.push(handle);
    }

    /// Takes all of them out.
    pub fn drain(&mut self) -> Vec<Record> {
        self.free.clear();
        std::mem::take(&mut self.records).into_iter().flatten().collect()
    }

    /// All of them by handle, for audits.
    pub fn iter(&self) -> impl Iterator<Item = (GrantHandle, &Record)> {
        (0..).map(GrantHandle).zip(&self.records).filter_map(|(handle, slot)| Some((handle, slot.as_ref()?)))
    }

    /// How many handles nobody else gets, for audits: as many as there are mappings while nothing goes on.
    pub fn reserved(&self) -> usize {
        self.records.len().saturating_sub(self.free.len())
    }
}
