//! The bench's domain: built by the ordinary builder from [`super::image`], then furnished with a window in which
//! pages come and go, its shared page, and a second root table.
//!
//! What is furnished goes through the calls that serve a guest's own `mmu_update` and pinning.

use super::BenchError;
use super::image::{self, UPDATES};
use crate::builder::{KernelImage, Plan, Wishes};
use crate::control::{DomainConfig, Hypervisor, fill};
use crate::domain::{Console, Domain};
use crate::paging::{Batch, Budget, Mmu, Progress};
use crate::vcpu::StartState;
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{ENTRIES, Level, Pte, PteFlags};
use pv_abi::{Mfn, PAGE_SIZE};
use std::sync::Arc;
use zerocopy::{FromZeros, IntoBytes};

/// The smallest domain that the builder makes: the initial mapping has this many pages.
pub const LEAST_PAGES: u64 = 1024;
/// Pages of a furnished domain.
const PAGES: u64 = FIRST_TARGET + 2 * UPDATES;
/// Frames of a machine that holds two furnished domains.
pub const MACHINE_FRAMES: u64 = 4 * PAGES;
/// The second root, the first pfn that the initial mapping leaves alone.
const OTHER_ROOT: u64 = LEAST_PAGES;
/// The window's L1 tables: for the updates, and one more for what is behind them.
const TABLES: std::ops::Range<u64> = OTHER_ROOT + 1..OTHER_ROOT + 2 + UPDATES / ENTRIES as u64;
/// The first of the pfns that are mapped in the window.
const FIRST_TARGET: u64 = 1088;
const _: () = assert!(FIRST_TARGET >= TABLES.end);
/// Where the window starts.
pub const WINDOW: u64 = image::BASE + (64 << 20);
/// Where the shared page is, behind it.
pub const SHARED: u64 = WINDOW + UPDATES * PAGE_SIZE as u64;
/// Where the first of the window's L1 tables is mapped, as a page that can be read.
pub const FIRST_TABLE: u64 = SHARED + PAGE_SIZE as u64;

const MAPPED: PteFlags = PteFlags::PRESENT.union(PteFlags::WRITABLE).union(PteFlags::USER);

/// Pages of a domain with such a ramdisk.
pub const fn pages_around(ramdisk: &[u8]) -> u64 {
    (ramdisk.len() / PAGE_SIZE) as u64 + 4 * LEAST_PAGES
}

/// The bench's domain, built from [`super::image`].
#[derive(Debug)]
pub struct Site {
    /// The domain, not started.
    pub domain: Arc<Domain>,
    /// The registers and the root table that its vCPU starts with.
    pub start: StartState,
    /// Where its ramdisk is mapped; 0 where it has none.
    pub ramdisk: u64,
    mmu: Arc<Mmu>,
    /// The frame of each page of the domain, by pfn. Empty where the domain is not furnished.
    p2m: Vec<Mfn>,
}

/// How the frames of a list of updates lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Each frame follows the one before it.
    Contiguous,
    /// No two are neighbours.
    Scattered,
}

impl Frames {
    /// From one frame to the next.
    pub const fn stride(self) -> u64 {
        match self {
            Self::Contiguous => 1,
            Self::Scattered => 2,
        }
    }
}

/// Makes and builds a domain of `pages` pages, with a ramdisk unless that is empty.
pub fn plain(
    hypervisor: &Hypervisor,
    pages: u64,
    ramdisk: &[u8],
    console: Arc<dyn Console>,
) -> Result<(Arc<Domain>, StartState, Plan), BenchError> {
    let image = KernelImage::parse(image::kernel())?;
    let bytes = Some(ramdisk.len() as u64).filter(|&bytes| bytes != 0);
    let plan = Plan::new(&image, &Wishes { pages, ramdisk: bytes, ..Wishes::default() })?;
    let config = DomainConfig { name: "bench".into(), maximum_pages: pages, vcpus: 1, console };
    let domain = hypervisor.create_domain(config)?;
    let filled = fill(hypervisor.services(), &domain, &image, ramdisk, &plan)?;
    Ok((domain, filled.start_state(), plan))
}

impl Site {
    /// Builds the domain and furnishes it: window, shared page, second root.
    pub fn new(hypervisor: &Hypervisor, console: Arc<dyn Console>) -> Result<Self, BenchError> {
        let (domain, start, plan) = plain(hypervisor, PAGES, &[], console)?;
        let mmu = Arc::clone(&hypervisor.services().mmu);
        let mut p2m: Vec<Mfn> = Mfn::new_vec_zeroed(PAGES as usize).unwrap_or_default();
        mmu.copy_from_guest(domain.id(), start.root, plan.p2m_address, p2m.as_mut_slice().as_mut_bytes())?;
        let site = Self { domain, start, ramdisk: 0, mmu, p2m };
        site.furnish()?;
        Ok(site)
    }

    /// Builds one with a ramdisk, and does not furnish it: it has no window, shared page or second root.
    pub fn with_ramdisk(
        hypervisor: &Hypervisor,
        ramdisk: &[u8],
        console: Arc<dyn Console>,
    ) -> Result<Self, BenchError> {
        let (domain, start, plan) = plain(hypervisor, pages_around(ramdisk), ramdisk, console)?;
        let ramdisk = plan.ramdisk.as_ref().map_or(0, |ramdisk| plan.address(ramdisk.pages.start));
        let mmu = Arc::clone(&hypervisor.services().mmu);
        Ok(Self { domain, start, ramdisk, mmu, p2m: Vec::new() })
    }

    fn mfn(&self, pfn: u64) -> Mfn {
        self.p2m.get(pfn as usize).copied().unwrap_or(Mfn(u64::MAX))
    }

    /// The second root table: other than the first in its frame only.
    pub fn other_root(&self) -> Mfn {
        self.mfn(OTHER_ROOT)
    }

    fn furnish(&self) -> Result<(), BenchError> {
        let (root, slot) = (self.start.root, Level::L4.index(image::BASE));
        let l3 = self.mmu.memory().entry(root, slot)?;
        let l2 = self.mmu.memory().entry(l3.mfn(), Level::L3.index(image::BASE))?.mfn();
        let mut updates = vec![update(self.other_root(), slot, l3)];
        for (n, pfn) in TABLES.enumerate() {
            updates.push(update(l2, Level::L2.index(WINDOW) + n, Pte::new(self.mfn(pfn), MAPPED)));
        }
        let behind = self.mfn(TABLES.end - 1);
        updates.push(update(behind, 0, Pte::new(self.domain.shared().frame(), MAPPED)));
        updates.push(update(behind, 1, Pte::new(self.mfn(TABLES.start), MAPPED - PteFlags::WRITABLE)));
        self.apply(&updates)?;
        let pin = || self.mmu.pin(self.domain.id(), self.other_root(), Level::L4, &mut Budget::unlimited());
        while pin()? == Progress::Preempted {}
        Ok(())
    }

    fn apply(&self, updates: &[MmuUpdate]) -> Result<(), BenchError> {
        let mut batch = Batch::new(self.domain.id(), Budget::unlimited());
        let applied = updates.iter().try_for_each(|update| {
            while self.mmu.mmu_update(*update, &mut batch)? == Progress::Preempted {}
            Ok(())
        });
        self.mmu.finish(batch)?;
        applied
    }

    /// Writes the guest's memory at an offset of its image.
    pub fn poke(&self, offset: u64, bytes: &[u8]) -> Result<(), BenchError> {
        let (domain, root) = (self.domain.id(), self.start.root);
        Ok(self.mmu.copy_to_guest(domain, root, image::BASE + offset, bytes)?)
    }

    /// Fills the lists by which the guest maps and unmaps `count` pages from the window's start on.
    pub fn write_lists(&self, count: u64, frames: Frames) -> Result<(), BenchError> {
        let target = |n| Pte::new(self.mfn(FIRST_TARGET + n * frames.stride()), MAPPED);
        let list = |entry: &dyn Fn(u64) -> Pte| -> Vec<MmuUpdate> {
            (0..count)
                .map(|n| {
                    let (table, index) = (n / ENTRIES as u64, n as usize % ENTRIES);
                    update(self.mfn(TABLES.start + table), index, entry(n))
                })
                .collect()
        };
        self.poke(image::MAPS, list(&target).as_slice().as_bytes())?;
        self.poke(image::UNMAPS, list(&|_| Pte(0)).as_slice().as_bytes())
    }
}

fn update(table: Mfn, index: usize, entry: Pte) -> MmuUpdate {
    MmuUpdate { ptr: table.address() + index as u64 * 8, val: entry.0 }
}
