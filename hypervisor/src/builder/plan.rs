//! Where everything of a new domain goes: Xen's start-of-day layout (`xen.h`, "Start-of-day memory layout").
//!
//! Pfns count from 0 up and are mapped linearly at VIRT_BASE, in this order: kernel image, ramdisk, p2m list,
//! start_info, xenstore page, console page, page tables, boot stack, and at least 512 KiB of padding up to a
//! multiple of 4 MiB. A ramdisk or p2m list that the kernel wants elsewhere lies behind all that.

use super::tables::{Mapping, Tables};
use super::{Amount, KernelImage, PlanError};
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, is_canonical};
use pv_abi::start_info::MAX_GUEST_CMDLINE;
use pv_abi::{PAGE_SHIFT, PAGE_SIZE};
use std::ops::Range;

/// Bytes that a command line may have; `start_info` holds its terminating zero as well.
pub const MAX_COMMAND_LINE: usize = MAX_GUEST_CMDLINE - 1;

/// Pages that a domain may have: 1 TiB.
pub const MAX_PAGES: u64 = 1 << 28;

const PAGE: u64 = PAGE_SIZE as u64;
/// Free bytes that follow the last element.
const PADDING: u64 = 512 << 10;
/// The initial mapping ends at a multiple of this.
const MAPPING_GRANULE: u64 = 4 << 20;
/// Bytes of an entry of the p2m list.
const P2M_ENTRY: u64 = 8;

/// What a domain is to have.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The domain's memory, in pages of 4 KiB.
    pub pages: u64,
    /// The ramdisk's size in bytes; none where there is no ramdisk.
    pub ramdisk: Option<u64>,
    /// The kernel's command line, without a zero byte.
    pub command_line: String,
}

/// Where the ramdisk goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ramdisk {
    /// The pfns of the ramdisk's pages.
    pub pages: Range<u64>,
    /// The ramdisk's size in bytes; the last page may have more.
    pub bytes: u64,
    /// Whether the initial mapping has it.
    pub mapped: bool,
}

/// Where everything goes. Numbers are pfns unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many pages of 4 KiB the domain has.
    pub pages: u64,
    /// Virtual address of pfn 0.
    pub virt_base: u64,
    /// The pages of the kernel image, from the first to the last segment.
    pub kernel: Range<u64>,
    /// The ramdisk, if there is one.
    pub ramdisk: Option<Ramdisk>,
    /// The pages of the p2m list: an mfn of 8 bytes for each pfn.
    pub p2m: Range<u64>,
    /// Virtual address of the p2m list.
    pub p2m_address: u64,
    /// The page of `start_info` (`public/xen.h`).
    pub start_info: u64,
    /// The page of the xenstore ring.
    pub xenstore: u64,
    /// The page of the console ring.
    pub console: u64,
    /// The page tables, the root first.
    pub table_frames: Range<u64>,
    /// The page of the stack that the first vCPU starts with.
    pub stack: u64,
    /// The page tables' contents.
    pub tables: Tables,
    /// Virtual address of the first instruction.
    pub entry: u64,
    /// The page that is filled with hypercall entries.
    pub hypercall_page: Option<u64>,
    /// The kernel's command line, as `start_info` gets it.
    pub command_line: String,
}

impl Plan {
    /// Plans a domain.
    ///
    /// # Errors
    /// Why image and wishes do not go together.
    pub fn new(image: &KernelImage<'_>, wishes: &Wishes) -> Result<Self, PlanError> {
        check_command_line(&wishes.command_line)?;
        if wishes.pages > MAX_PAGES {
            return Err(PlanError::MemoryTooLarge { most: Amount(MAX_PAGES), has: Amount(wishes.pages) });
        }
        let has = Amount(wishes.pages);
        let bare = Wishes { ramdisk: None, ..wishes.clone() };
        // What alone is larger than the domain is perhaps impossible to lay out in any.
        let kernel = image.pages().end;
        if kernel > wishes.pages {
            let needs = Amount(least_memory(image, &bare).unwrap_or(kernel));
            return Err(PlanError::MemoryTooSmall { needs, has });
        }
        let ramdisk = wishes.ramdisk.map_or(0, |bytes| bytes.div_ceil(PAGE));
        if ramdisk > wishes.pages {
            let least = if ramdisk > MAX_PAGES { Ok(ramdisk) } else { least_memory(image, wishes) };
            return Err(PlanError::RamdiskTooBig { needs: Amount(least.unwrap_or(ramdisk)), has });
        }
        let plan = lay_out(image, wishes)?;
        if plan.end() <= wishes.pages {
            return Ok(plan);
        }
        let fits_bare = ramdisk != 0 && lay_out(image, &bare)?.end() <= wishes.pages;
        let needs = Amount(least_memory(image, wishes)?);
        Err(match fits_bare {
            true => PlanError::RamdiskTooBig { needs, has },
            false => PlanError::MemoryTooSmall { needs, has },
        })
    }

    /// The virtual address of a pfn of the initial mapping.
    pub fn address(&self, pfn: u64) -> u64 {
        self.virt_base + pfn * PAGE
    }

    /// Whether the p2m list lies in the initial mapping.
    pub fn p2m_in_mapping(&self) -> bool {
        self.tables.mappings().first().is_some_and(|bootstrap| self.p2m.start < bootstrap.pages)
    }

    /// The first pfn behind all that the plan uses.
    fn end(&self) -> u64 {
        let mapped = self.tables.mappings().iter().map(|mapping| mapping.first_pfn + mapping.pages);
        mapped.chain(self.ramdisk.iter().map(|ramdisk| ramdisk.pages.end)).max().unwrap_or(0)
    }
}

/// Hands out pfns, one behind the other.
struct Cursor(u64);

impl Cursor {
    fn take(&mut self, pages: u64) -> Range<u64> {
        let start = self.0;
        self.0 += pages;
        start..self.0
    }
}

/// Lays everything out, whether or not the domain has that much memory.
fn lay_out(image: &KernelImage<'_>, wishes: &Wishes) -> Result<Plan, PlanError> {
    let virt_base = image.notes.virt_base;
    let kernel = image.pages();
    let p2m_pages = (wishes.pages * P2M_ENTRY).div_ceil(PAGE).max(1);
    let ramdisk_mapped = !image.notes.mod_start_pfn;

    let mut cursor = Cursor(kernel.end);
    let mapped_ramdisk =
        wishes.ramdisk.filter(|_| ramdisk_mapped).map(|bytes| cursor.take(bytes.div_ceil(PAGE)));
    let mapped_p2m = image.notes.init_p2m.is_none().then(|| cursor.take(p2m_pages));
    let [start_info, xenstore, console] = [(); 3].map(|()| cursor.take(1).start);
    let (tables, table_frames) = plan_tables(image, cursor.0, p2m_pages)?;
    let stack = table_frames.end;

    let mut behind = Cursor(tables.mappings().first().map_or(stack, |bootstrap| bootstrap.pages));
    let p2m = mapped_p2m.unwrap_or_else(|| behind.take(p2m_pages));
    let p2m_address = image.notes.init_p2m.unwrap_or_else(|| virt_base + p2m.start * PAGE);
    let ramdisk = wishes.ramdisk.map(|bytes| {
        let pages = mapped_ramdisk.unwrap_or_else(|| behind.take(bytes.div_ceil(PAGE)));
        Ramdisk { pages, bytes, mapped: ramdisk_mapped }
    });
    Ok(Plan {
        pages: wishes.pages,
        virt_base,
        kernel,
        ramdisk,
        p2m,
        p2m_address,
        start_info,
        xenstore,
        console,
        table_frames,
        stack,
        tables,
        entry: image.entry,
        hypercall_page: image.hypercall_page(),
        command_line: wishes.command_line.clone(),
    })
}

/// The tables lie in what they map, so their number and the mapping's length depend on each other.
fn plan_tables(
    image: &KernelImage<'_>,
    first_table: u64,
    p2m_pages: u64,
) -> Result<(Tables, Range<u64>), PlanError> {
    let mut count = 0;
    loop {
        let stack = first_table + count;
        let bootstrap = bootstrap_mapping(image.notes.virt_base, stack + 1)?;
        let mut mappings = vec![bootstrap];
        if let Some(address) = image.notes.init_p2m {
            let p2m = Mapping { address, first_pfn: bootstrap.pages, pages: p2m_pages };
            check_mapping(&p2m)?;
            check_apart(&bootstrap, &p2m)?;
            mappings.push(p2m);
        }
        let tables = Tables::new(mappings);
        if tables.count() as u64 == count {
            return Ok((tables, first_table..stack));
        }
        count = tables.count() as u64;
    }
}

/// The initial mapping, of which the first `used` pages are taken.
fn bootstrap_mapping(virt_base: u64, used: u64) -> Result<Mapping, PlanError> {
    let out_of_range = || PlanError::AddressRange { start: virt_base, bytes: used * PAGE };
    let end = virt_base.checked_add(used * PAGE + PADDING).ok_or_else(out_of_range)?;
    let last = (end - 1) | (MAPPING_GRANULE - 1);
    let mapping = Mapping { address: virt_base, first_pfn: 0, pages: ((last - virt_base) >> PAGE_SHIFT) + 1 };
    check_mapping(&mapping).map(|()| mapping)
}

/// A mapping must lie in one half of the address space, and not in the hypervisor's part.
fn check_mapping(mapping: &Mapping) -> Result<(), PlanError> {
    let bytes = mapping.pages * PAGE;
    let refused = PlanError::AddressRange { start: mapping.address, bytes };
    let Some(last) = mapping.address.checked_add(bytes.saturating_sub(1)) else { return Err(refused) };
    let aligned = mapping.address.is_multiple_of(PAGE);
    let one_half = is_canonical(mapping.address) && is_canonical(last) && mapping.address >> 63 == last >> 63;
    let apart = last < HYPERVISOR_VIRT_START || mapping.address >= HYPERVISOR_VIRT_END;
    if aligned && one_half && apart && bytes != 0 { Ok(()) } else { Err(refused) }
}

fn check_apart(one: &Mapping, other: &Mapping) -> Result<(), PlanError> {
    if one.last() < other.address || other.last() < one.address {
        return Ok(());
    }
    Err(PlanError::AddressRange { start: other.address, bytes: other.pages * PAGE })
}

fn check_command_line(line: &str) -> Result<(), PlanError> {
    if line.len() > MAX_COMMAND_LINE {
        return Err(PlanError::CommandLineTooLong { length: line.len() });
    }
    if line.contains('\0') { Err(PlanError::CommandLineHasZero) } else { Ok(()) }
}

/// The least memory that would do. More memory needs a longer p2m list, so it is approached from below.
fn least_memory(image: &KernelImage<'_>, wishes: &Wishes) -> Result<u64, PlanError> {
    let mut wishes = wishes.clone();
    loop {
        let end = lay_out(image, &wishes)?.end();
        if end <= wishes.pages {
            return Ok(wishes.pages);
        }
        wishes.pages = end;
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
