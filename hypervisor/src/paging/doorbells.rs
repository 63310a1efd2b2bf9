//! Which domain has which of the machine's doorbell pages.
//!
//! A domain has its page before its first root is validated, and until its last is taken apart: all its roots show it,
//! and no root of another's does.

use super::Mmu;
use crate::lock::{Guard, Rank, Ranked};
use crate::machine::DOORBELL_SLOT;
use pv_abi::DomId;
use pv_abi::page_table::{FIRST_HYPERVISOR_SLOT, Pte};

/// For each doorbell page, the domain that has it.
#[derive(Debug)]
pub(super) struct DoorbellPages(Ranked<Vec<Option<DomId>>>);

impl DoorbellPages {
    pub(super) fn new(count: usize) -> Self {
        Self(Ranked::new(Rank::DoorbellPages, vec![None; count]))
    }

    fn pages(&self) -> Guard<'_, Vec<Option<DomId>>> {
        self.0.lock()
    }
}

impl Mmu {
    /// Gives a domain that has no root yet a doorbell page, where there is one left.
    pub fn give_doorbell_page(&self, domain: DomId) {
        if let Some(page) = self.doorbell_pages.pages().iter_mut().find(|page| page.is_none()) {
            *page = Some(domain);
        }
    }

    /// Takes it back. No table of the domain's is a root any more.
    pub fn take_doorbell_page(&self, domain: DomId) {
        let mut pages = self.doorbell_pages.pages();
        pages.iter_mut().filter(|page| **page == Some(domain)).for_each(|page| *page = None);
    }

    /// The doorbell page that a domain has.
    pub fn doorbell_page(&self, domain: DomId) -> Option<usize> {
        self.doorbell_pages.pages().iter().position(|page| *page == Some(domain))
    }

    /// What one of the hypervisor's slots holds in the L4 tables of a domain.
    pub(super) fn hypervisor_slot(&self, domain: DomId, index: usize) -> Pte {
        let own = (index == DOORBELL_SLOT).then(|| self.doorbell_page(domain)).flatten();
        let slot = match own {
            Some(page) => self.layout.doorbell_pages.get(page),
            None => self.layout.slots.get(index.wrapping_sub(FIRST_HYPERVISOR_SLOT)),
        };
        slot.copied().unwrap_or_default()
    }
}
