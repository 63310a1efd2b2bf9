//! What the machine's pcpus have cached: all that they may have before an operation, and nothing stale after it.

use crate::real::Real;
use crate::state::ENTRIES;
use hypervisor::machine::Translations;
use hypervisor::machine::fake::PCPUS;
use pv_abi::Mfn;
use pv_abi::page_table::Level;

impl Real {
    /// Each pcpu touches each address that a valid root leads to, as far as its tables go.
    pub fn touch(&self) {
        for root in self.all_frames().filter(|&mfn| self.mmu.frames().word(mfn).is_valid_table(Level::L4)) {
            self.touch_below(root, root, Level::L4, 0);
        }
    }

    fn touch_below(&self, root: Mfn, table: Mfn, level: Level, above: u64) {
        for index in 0..ENTRIES {
            let address = above | (index as u64) << level.shift();
            let entry = self.mmu.memory().entry(table, index).unwrap_or_default();
            match level.below().filter(|_| entry.is_present()) {
                Some(below) => self.touch_below(root, entry.mfn(), below, address),
                None => (0..PCPUS).for_each(|pcpu| {
                    let _mapped_or_not = self.translations.access(pcpu, root, address, false);
                }),
            }
        }
    }

    /// The pcpus have what this state allows, and nothing of another one.
    pub fn forget_and_touch(&self) -> Result<(), String> {
        self.translations.flush().map_err(|error| error.to_string())?;
        self.touch();
        Ok(())
    }

    /// What pcpus still have and the tables do not say any more.
    pub fn check_caches(&self) -> Result<(), String> {
        let stale = self.mmu.stale(self.translations.derived());
        if stale.is_empty() { Ok(()) } else { Err(format!("stale: {}", stale.join("; "))) }
    }
}
