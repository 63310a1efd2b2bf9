//! What the canary lends to whoever plays beside it: a page to be written, which is no longer compared, and one to be
//! read, which is: its own code.

use crate::support::check;
use crate::tiny_guest::{CODE, Guest, Host, UNMAPPED};
use hypervisor::grant::{entries_of, lent_entries};
use hypervisor::paging::{Budget, Progress};
use libtest_mimic::Failed;
use pv_abi::grant_table::GrantEntry;
use pv_abi::page_table::PteFlags;
use pv_abi::{DomId, Mfn};
use zerocopy::IntoBytes;

/// In the second half of the canary's initial mapping, where nothing else is.
pub const TO_WRITE: u64 = UNMAPPED - 0x10_0000;
const TO_READ: u64 = CODE;
/// The first entry that is not its console's or its store's.
const REFERENCE: usize = 2;

/// The canary's grant table, as it left it.
pub struct Lent {
    table: Mfn,
    contents: [u8; 4096],
    frames: [Mfn; 2],
}

impl Lent {
    /// The canary lends its two pages to `borrower`, who has nothing of it yet.
    pub fn to(host: &Host, borrower: DomId) -> Result<Self, Failed> {
        let canary = host.canary();
        let table = canary.domain.grants().lock().frames().first().copied();
        let table = table.ok_or("the canary has no grant table")?;
        let frames = [TO_WRITE, TO_READ].map(|address| canary.mfn(address));
        let entry = |frame: Mfn, flags| GrantEntry { flags, domid: borrower.0, frame: frame.0 as u32 };
        let entries = [
            entry(frames[0], GrantEntry::PERMIT_ACCESS),
            entry(frames[1], GrantEntry::PERMIT_ACCESS | GrantEntry::READ_ONLY),
        ];
        canary.memory().write(table, REFERENCE * size_of::<GrantEntry>(), entries.as_bytes())?;
        let mut contents = [0; 4096];
        canary.memory().read(table, 0, &mut contents)?;
        Ok(Self { table, contents, frames })
    }

    /// How many mappings of these pages the guest has. Of the canary's other pages it has none.
    pub fn mappings(&self, host: &Host, guest: &Guest) -> Result<u64, Failed> {
        let mut count = 0;
        for (_, frame) in entries_of(&guest.domain) {
            let is_lent = self.frames.contains(&frame);
            let others = host.canary().frames().contains(&frame);
            check(is_lent || !others, || format!("{frame} is the canary's, and mapped"))?;
            count += u64::from(is_lent);
        }
        Ok(count)
    }

    /// Nobody has anything of it any more: the canary's grant table is as it left it.
    pub fn is_back(&self, host: &Host) -> Result<(), Failed> {
        let mut now = [0; 4096];
        host.canary().memory().read(self.table, 0, &mut now)?;
        check(now == self.contents, || "the canary's grant table was written, or is still marked".into())
    }

    /// Every count is right, with what is lent, while the guest's vCPUs have no more calls to make; and what is lent
    /// to be read is mapped so.
    pub fn audit(&self, host: &Host, guest: &Guest) -> Result<(), Failed> {
        let services = host.hypervisor.services();
        let drained = services.mmu.drain(guest.domain.id(), &mut Budget::unlimited());
        check(matches!(drained, Ok(Progress::Done)), || format!("its leftovers: {drained:?}"))?;
        let mut held = Vec::new();
        for handle in guest.domain.vcpus() {
            let vcpu = handle.state().lock();
            held.extend(vcpu.roots.held().chain(vcpu.gdt.held()).chain(handle.held()));
        }
        let lent = lent_entries(&services.domains);
        for (place, frame) in lent.iter().filter(|(_, frame)| *frame == self.frames[1]) {
            let entry = services.mmu.memory().entry(place.table, place.index)?;
            let is_written = entry.mfn() == *frame && entry.flags().contains(PteFlags::WRITABLE);
            check(!is_written, || format!("{frame} is lent to be read, and mapped as {entry:?}"))?;
        }
        host.audit_beside(&held, &lent)
    }
}
