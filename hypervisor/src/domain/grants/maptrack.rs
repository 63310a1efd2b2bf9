//! The mappings that a domain has of what others grant it.

use crate::domain::Domain;
use crate::paging::{EntryPlace, EntryTarget};
use backend_interface::host::Access;
use pv_abi::grant_table::{GrantHandle, GrantStatus};
use pv_abi::{GrantRef, Mfn};
use std::sync::Arc;

/// Mappings that a domain can have at a time.
pub const MAX_MAPPINGS: usize = 8192;

/// One mapping: the only truth about it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The domain that lends the page.
    pub granter: Arc<Domain>,
    /// The entry of the granter's table that permits the mapping.
    pub reference: GrantRef,
    /// Whether the page is mapped for writing.
    pub access: Access,
    /// The frame that is mapped, of the granter.
    pub frame: Mfn,
    /// Where it was mapped for the grantee's kernel, if it was.
    pub host: Option<HostMapping>,
    /// Whether it is mapped for a device. There are none, so that keeps the entry in use, and nothing else.
    pub device: bool,
}

/// The entry that maps a granted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMapping {
    /// The page-table entry that maps the frame.
    pub place: EntryPlace,
    /// What the grantee called that place.
    pub target: EntryTarget,
}

/// What of a mapping ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Both parts: the kernel's mapping and the device's.
    All,
    /// What the grantee names, as `struct gnttab_unmap_grant_ref` has it.
    Named {
        /// Where it is mapped for the kernel. 0 does not mean that part where the device's is named.
        host_addr: u64,
        /// The frame's machine address, which names the part for a device; 0 does not.
        dev_bus_addr: u64,
    },
}

impl Record {
    /// What is left of it when these parts have ended.
    ///
    /// # Errors
    /// Xen's status where no part has that name.
    pub fn without(&self, parts: Parts) -> Result<Self, GrantStatus> {
        let Parts::Named { host_addr, dev_bus_addr } = parts else {
            return Ok(Self { host: None, device: false, ..self.clone() });
        };
        let device_alone = host_addr == 0 && dev_bus_addr != 0;
        let is_right = match self.host.filter(|_| !device_alone) {
            Some(host) => host.target.address() == host_addr,
            None => self.device && dev_bus_addr != 0,
        };
        if !is_right || (dev_bus_addr != 0 && dev_bus_addr != self.frame.address()) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let (host, device) = (self.host.filter(|_| device_alone), self.device && dev_bus_addr == 0);
        Ok(Self { host, device, ..self.clone() })
    }

    /// Whether nothing is left of it.
    pub const fn has_ended(&self) -> bool {
        self.host.is_none() && !self.device
    }
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

    /// Takes out the mapping of which these parts end; its handle stays reserved. With it comes the rest: what is left when
    /// they have ended.
    ///
    /// # Errors
    /// Xen's status where the handle is no mapping's, or no part of it has that name.
    pub fn take(&mut self, handle: GrantHandle, parts: Parts) -> Result<(Record, Record), GrantStatus> {
        let slot = self.records.get_mut(handle.0 as usize).ok_or(GrantStatus::BAD_HANDLE)?;
        let rest = slot.as_ref().ok_or(GrantStatus::BAD_HANDLE)?.without(parts)?;
        slot.take().map(|record| (record, rest)).ok_or(GrantStatus::BAD_HANDLE)
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
