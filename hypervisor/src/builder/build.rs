//! Doing what a [`Plan`] says.
//!
//! No vCPU of the domain has run, and none of its frames is a table or mapped anywhere: until the last step they are
//! plain memory, written from here. The last step makes the page tables count, by the validation that a guest's own
//! tables pass.

use super::plan::Plan;
use super::tables::Target;
use super::{Amount, BuildError, KernelImage};
use crate::machine::MachineMemory;
use crate::paging::{Budget, Mmu, Progress};
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::start_info::{MAGIC, StartFlags, StartInfo};
use pv_abi::{DomId, EventPort, Mfn, PAGE_SIZE, Pfn};
use zerocopy::{FromZeros, IntoBytes};

/// Flags of every entry, but that pages which hold tables are not writable.
const MAPPED: PteFlags =
    PteFlags::PRESENT.union(PteFlags::WRITABLE).union(PteFlags::USER).union(PteFlags::ACCESSED);

/// What a domain is built for.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The number of the domain that is built.
    pub domain: DomId,
    /// The frame of its shared info page ([`Mmu::allocate_shared`]); none of its pfns names it.
    pub shared_info: Mfn,
    /// The port that it is to use for its console.
    pub console_port: EventPort,
    /// The one for its store.
    pub store_port: EventPort,
}

/// A domain whose first vCPU can start, with selectors 0xe033 and 0xe02b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltDomain {
    /// The root of its page tables, pinned.
    pub root: Mfn,
    /// RIP: the virtual address of the kernel's first instruction.
    pub entry: u64,
    /// RSP: the top of the boot stack.
    pub stack: u64,
    /// RSI: the virtual address of start_info.
    pub start_info: u64,
    /// The frame of the console ring.
    pub console: Mfn,
    /// The frame of the xenstore ring.
    pub store: Mfn,
}

/// Builds a domain: takes its memory, fills it, and has its page tables validated.
///
/// # Errors
/// Why there is no domain; whoever called ends it by [`Mmu::release_domain`].
pub fn build(
    mmu: &Mmu,
    identity: Identity,
    image: &KernelImage<'_>,
    ramdisk: &[u8],
    plan: &Plan,
) -> Result<BuiltDomain, BuildError> {
    let site = Site { memory: mmu.memory(), plan, p2m: take_memory(mmu, identity.domain, plan.pages)? };
    site.load_kernel(image)?;
    site.load_ramdisk(ramdisk)?;
    site.write_p2m()?;
    site.write_start_info(identity)?;
    site.write_hypercall_page(&mmu.layout().hypercall_page)?;
    site.write_tables()?;
    Ok(BuiltDomain {
        root: site.pin_root(mmu, identity.domain)?,
        entry: plan.entry,
        stack: plan.address(plan.stack + 1),
        start_info: plan.address(plan.start_info),
        console: site.mfn(plan.console)?,
        store: site.mfn(plan.xenstore)?,
    })
}

/// Takes a domain's memory from the machine. Frames come zeroed.
fn take_memory(mmu: &Mmu, domain: DomId, pages: u64) -> Result<Vec<Mfn>, BuildError> {
    let free = mmu.free_frames();
    if free < pages {
        return Err(BuildError::MachineTooSmall { needs: Amount(pages), has: Amount(free) });
    }
    let frames = mmu.allocate_many(domain, pages)?;
    frames.iter().zip(0..).for_each(|(mfn, pfn)| mmu.set_pfn(*mfn, Pfn(pfn)));
    Ok(frames)
}

/// A domain while it is built.
struct Site<'a> {
    memory: &'a MachineMemory,
    plan: &'a Plan,
    /// The frame of each page of the domain, by pfn.
    p2m: Vec<Mfn>,
}

impl Site<'_> {
    /// The frame of a pfn. The plan knows no others, so an error is a defect of the plan.
    fn mfn(&self, pfn: u64) -> Result<Mfn, BuildError> {
        let mfn = usize::try_from(pfn).ok().and_then(|pfn| self.p2m.get(pfn));
        mfn.copied().ok_or(BuildError::Plan(pfn))
    }

    /// Writes bytes at a pseudo-physical address, across pages.
    fn write(&self, address: u64, mut bytes: &[u8]) -> Result<(), BuildError> {
        let mut pfn = address / PAGE_SIZE as u64;
        let mut offset = address as usize % PAGE_SIZE;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PAGE_SIZE - offset));
            self.memory.write(self.mfn(pfn)?, offset, now)?;
            (pfn, offset, bytes) = (pfn + 1, 0, later);
        }
        Ok(())
    }

    fn write_page(&self, pfn: u64, bytes: &[u8]) -> Result<(), BuildError> {
        self.write(pfn * PAGE_SIZE as u64, bytes)
    }

    fn load_kernel(&self, image: &KernelImage<'_>) -> Result<(), BuildError> {
        image.segments.iter().try_for_each(|segment| self.write(segment.address, image.bytes(segment)))
    }

    fn load_ramdisk(&self, bytes: &[u8]) -> Result<(), BuildError> {
        match &self.plan.ramdisk {
            Some(ramdisk) => self.write_page(ramdisk.pages.start, bytes),
            None => Ok(()),
        }
    }

    fn write_p2m(&self) -> Result<(), BuildError> {
        self.write_page(self.plan.p2m.start, self.p2m.as_slice().as_bytes())
    }

    fn write_start_info(&self, identity: Identity) -> Result<(), BuildError> {
        let plan = self.plan;
        let mut info = StartInfo::new_zeroed();
        info.magic.iter_mut().zip(MAGIC.as_bytes()).for_each(|(to, from)| *to = *from);
        info.nr_pages = plan.pages;
        info.shared_info = identity.shared_info.address();
        info.console_mfn = self.mfn(plan.console)?;
        info.console_evtchn = identity.console_port;
        info.store_mfn = self.mfn(plan.xenstore)?;
        info.store_evtchn = identity.store_port;
        info.pt_base = plan.address(plan.table_frames.start);
        info.nr_pt_frames = plan.table_frames.end - plan.table_frames.start;
        info.mfn_list = plan.p2m_address;
        if !plan.p2m_in_mapping() {
            info.first_p2m_pfn = plan.p2m.start;
            info.nr_p2m_frames = plan.p2m.end - plan.p2m.start;
        }
        if let Some(ramdisk) = &plan.ramdisk {
            info.mod_len = ramdisk.bytes;
            if ramdisk.mapped {
                info.mod_start = plan.address(ramdisk.pages.start);
            } else {
                info.mod_start = ramdisk.pages.start;
                info.flags |= StartFlags::MOD_START_PFN.bits();
            }
        }
        // The plan has checked the length; the last byte stays zero.
        let line = plan.command_line.as_bytes();
        info.cmd_line.iter_mut().zip(line).for_each(|(to, from)| *to = *from);
        self.write_page(plan.start_info, info.as_bytes())
    }

    fn write_hypercall_page(&self, page: &[u8]) -> Result<(), BuildError> {
        match self.plan.hypercall_page {
            Some(pfn) => self.write_page(pfn, page),
            None => Ok(()),
        }
    }

    fn write_tables(&self) -> Result<(), BuildError> {
        let tables = &self.plan.tables;
        for (table, pfn) in tables.list().iter().zip(self.plan.table_frames.clone()) {
            let frame = self.mfn(pfn)?;
            for (index, target) in tables.entries(*table) {
                self.memory.exchange_entry(frame, index, self.entry(target)?, 0)?;
            }
        }
        Ok(())
    }

    fn entry(&self, target: Target) -> Result<Pte, BuildError> {
        Ok(match target {
            Target::Table(position) => {
                Pte::new(self.mfn(self.plan.table_frames.start + position as u64)?, MAPPED)
            }
            Target::Page(pfn) if self.plan.table_frames.contains(&pfn) => {
                Pte::new(self.mfn(pfn)?, MAPPED.difference(PteFlags::WRITABLE))
            }
            Target::Page(pfn) => Pte::new(self.mfn(pfn)?, MAPPED),
        })
    }

    /// Has the tables validated, and keeps them so.
    fn pin_root(&self, mmu: &Mmu, domain: DomId) -> Result<Mfn, BuildError> {
        let root = self.mfn(self.plan.table_frames.start)?;
        while mmu.pin(domain, root, Level::L4, &mut Budget::unlimited())? == Progress::Preempted {}
        Ok(root)
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
