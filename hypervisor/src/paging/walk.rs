//! Walking a guest's tables in software, under the lock that keeps them in place.

use super::Mmu;
use super::copy::BadAddress;
use super::space::Space;
use crate::error::Failure;
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, is_canonical};
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Mfn};

/// Where an address leads, at the moment of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The L1 table that the entry is in.
    pub table: Mfn,
    /// The index of its entry.
    pub index: usize,
    /// The entry as it was read.
    pub entry: Pte,
    /// Whether all four levels allow writing.
    pub writable: bool,
}

impl Mmu {
    /// Walks to the page that `address` is in. The answer is a hint: another vCPU may change it at once. Accesses
    /// go through [`Mmu::copy_from_guest`] and its like, which hold on to what they find.
    ///
    /// # Errors
    /// The address leads nowhere, or is the hypervisor's.
    pub fn translate(&self, domain: DomId, root: Mfn, address: u64) -> Result<Mapping, BadAddress> {
        let walk = |space: &mut Space| -> Result<Mapping, Failure> { Ok(self.walk(space, root, address)?) };
        self.with_space(domain, walk).map_err(|_| BadAddress(address))
    }

    pub(super) fn walk(&self, space: &Space, root: Mfn, address: u64) -> Result<Mapping, BadAddress> {
        let (table, writable) = self.descend(space, root, address, Level::L1).ok_or(BadAddress(address))?;
        let index = Level::L1.index(address);
        let entry = self.memory.entry(table, index).map_err(|_| BadAddress(address))?;
        let flags = entry.flags();
        if !flags.contains(PteFlags::PRESENT | PteFlags::USER) {
            return Err(BadAddress(address));
        }
        Ok(Mapping { table, index, entry, writable: writable && flags.contains(PteFlags::WRITABLE) })
    }

    /// The table of `level` that `address` is mapped by.
    pub(super) fn table_for(&self, space: &Space, root: Mfn, address: u64, level: Level) -> Option<Mfn> {
        self.descend(space, root, address, level).map(|(table, _)| table)
    }

    /// Goes down to the table of level `to`, and says whether all entries on the way allow writing.
    fn descend(&self, space: &Space, root: Mfn, address: u64, to: Level) -> Option<(Mfn, bool)> {
        if !is_canonical(address) || (HYPERVISOR_VIRT_START..HYPERVISOR_VIRT_END).contains(&address) {
            return None;
        }
        let is_own = self.frames.owner(root) == Some(space.domain);
        if !is_own || !self.frames.word(root).is_valid_table(Level::L4) {
            return None;
        }
        let (mut table, mut writable) = (root, true);
        for level in Level::ALL.into_iter().rev().take_while(|&level| level > to) {
            let entry = self.memory.entry(table, level.index(address)).ok()?;
            let flags = entry.flags();
            if !flags.contains(PteFlags::PRESENT | PteFlags::USER) {
                return None;
            }
            writable &= flags.contains(PteFlags::WRITABLE);
            table = entry.mfn();
        }
        Some((table, writable))
    }
}
