//! The hypervisor's own part of every address space, and its frames in machine memory.
//!
//! | L4 slot | what | who |
//! |---|---|---|
//! | 256 | the M2P once more, where the host lets CPL3 use this slot | CPL3 reads |
//! | 257 | [`AREA`]: stub, the gate's page, IDT, doorbell, per-pcpu pages | CPL0, but for the gate's page on some hosts, and the doorbell |
//! | 258 | the M2P | CPL3 reads |
//! | 259 | direct map of all memory, in the scribe's root only | CPL0 |
//! | 260 | the domain's doorbell page, where it has one | CPL3 writes |
//!
//! Invariants:
//! - Every frame below the M2P is the hypervisor's and no guest can map it; what CPL3 can reach in these slots is
//!   the M2P (to read), the doorbells (no memory behind them), and the gate's page where the probe says so.
//! - A doorbell page is reached by slot 260 only, through tables that lead nowhere else
//!   (`tests::a_doorbell_slot_leads_to_its_own_page_and_nowhere_else`).
//! - After the start-up probes nothing in these tables changes: no guest can have a stale translation of them.

use super::super::{DOORBELL_ADDRESS, DOORBELLS_PER_PAGE, Layout, MachineMemory, NoSuchFrame};
use pv_abi::page_table::{ENTRIES, FIRST_HYPERVISOR_SLOT, Level, Pte, PteFlags};
use pv_abi::{Mfn, PAGE_SIZE};

/// First address of L4 slot 257.
pub const AREA: u64 = 0xffff_8080_0000_0000;
/// Where guests read the M2P: L4 slot 258.
pub const M2P_ADDRESS: u64 = 0xffff_8100_0000_0000;
/// The scribe's direct map: L4 slot 259.
pub const DIRECT_MAP: u64 = 0xffff_8180_0000_0000;

/// The stub's code: supervisor, read and execute.
pub const STUB: u64 = AREA;
/// The page with the gate of `syscall`, where a host leaves that at CPL3 ([`super::entry`]).
pub const LSTAR: u64 = AREA + PAGE_SIZE as u64;
/// The page of the IDT, which all pcpus share.
pub const IDT: u64 = AREA + 2 * PAGE_SIZE as u64;
/// The hypercall doorbell: mapped for CPL3, with nothing behind it.
pub const DOORBELL: u64 = AREA + 3 * PAGE_SIZE as u64;
/// Doorbell pages of domains. KVM has room for a thousand devices on its bus.
pub const DOORBELL_PAGES: usize = 30;
const _: () = assert!(DOORBELL_PAGES * DOORBELLS_PER_PAGE <= 1000);

/// Where the doorbells are: the last machine addresses, behind any memory that a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorbellAddresses {
    /// Of the hypercalls' doorbell; the pages of domains lie below it.
    hypercalls: u64,
}

impl DoorbellAddresses {
    /// Bits of a machine address that are used at most, whatever the host has.
    const MOST_BITS: u32 = 40;
    /// Every processor with long mode has these.
    const LEAST_BITS: u32 = 36;
    /// Those of a host with as many bits as are used at most.
    pub const HIGHEST: Self = Self::on_host(Self::MOST_BITS);

    /// Those of a host whose physical addresses have so many bits: beyond them, an entry's bits are reserved.
    pub const fn on_host(bits: u32) -> Self {
        let bits = if bits > Self::MOST_BITS { Self::MOST_BITS } else { bits };
        let bits = if bits < Self::LEAST_BITS { Self::LEAST_BITS } else { bits };
        Self { hypercalls: (1 << bits) - PAGE_SIZE as u64 }
    }

    /// Of the hypercalls' doorbell.
    pub const fn hypercalls(self) -> u64 {
        self.hypercalls
    }

    /// Of a domain's doorbell page.
    pub const fn page(self, page: usize) -> u64 {
        self.hypercalls - (page as u64 + 1) * PAGE_SIZE as u64
    }

    /// Whether some domain rings at a machine address: it is the start of its doorbell page.
    pub const fn is_page(self, address: u64) -> bool {
        self.page(DOORBELL_PAGES) < address
            && address < self.hypercalls
            && address.is_multiple_of(PAGE_SIZE as u64)
    }

    /// Pages that a machine can have below all doorbells.
    pub const fn most_frames(self) -> u64 {
        self.page(DOORBELL_PAGES - 1) / PAGE_SIZE as u64
    }
}

/// Pages of one pcpu: TSS, stack, IST stacks, GDT.
const PCPU_PAGES: u64 = 3 + GDT_PAGES;
/// Pages of a GDT: 14 for the guest, one for the hypervisor's descriptors.
pub const GDT_PAGES: u64 = 15;
/// Pages of [`AREA`] before the first pcpu's.
const SHARED_PAGES: u64 = 4;
/// Runs of probes that there are frames for, and frames of each. No run finds what another left behind in KVM, and
/// all of them stay the hypervisor's, so that no guest does either.
pub const PROBE_RUNS: u64 = 8;
const PROBE_FRAMES: u64 = 16;

/// One pcpu's pages: where they are, and where they are mapped.
#[derive(Clone, Copy, Debug)]
pub struct PcpuPages {
    first: Mfn,
    address: u64,
}

impl PcpuPages {
    /// Page `n` of the pcpu: its frame and its virtual address.
    const fn page(&self, n: u64) -> (Mfn, u64) {
        (Mfn(self.first.0 + n), self.address + n * PAGE_SIZE as u64)
    }

    /// The task state segment.
    pub const fn tss(&self) -> (Mfn, u64) {
        self.page(0)
    }

    /// The stack of all exceptions but those with a stack of their own; it grows down from the page's end.
    pub const fn stack(&self) -> (Mfn, u64) {
        self.page(1)
    }

    /// Four stacks of 1 KiB for #DB, NMI, #DF and #MC.
    pub const fn ist_stacks(&self) -> (Mfn, u64) {
        self.page(2)
    }

    /// The first page of the GDT.
    pub const fn gdt(&self) -> (Mfn, u64) {
        self.page(3)
    }
}

/// Where the hypervisor's frames are: computed from the machine's size and its number of pcpus.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    frames: u64,
    pcpus: u64,
    with_scribe: u64,
    doorbells: DoorbellAddresses,
}

impl Area {
    /// Plans a machine of `frames` pages with `pcpus` pcpus and one more vCPU of KVM, the scribe.
    pub const fn new(frames: u64, pcpus: u64, doorbells: DoorbellAddresses) -> Self {
        Self { frames, pcpus, with_scribe: pcpus + 1, doorbells }
    }

    /// Frames that the hypervisor takes, the M2P included.
    pub const fn frames_needed(&self) -> u64 {
        self.m2p_first().0 + self.m2p_frames()
    }

    // Frame 0 stays unused: an entry of zeros must name nothing. Then: L3, L2 of slot 257 and its L1 tables; L3
    // and L2 of the M2P and its L1 tables; the scribe's L3, its L2 tables and its root; L3, L2 and L1 of each doorbell
    // page; the shared pages; the pcpus' pages; the M2P.
    const fn area_l3(&self) -> Mfn {
        Mfn(1)
    }
    const fn area_l2(&self) -> Mfn {
        Mfn(2)
    }
    const fn area_l1(&self) -> Mfn {
        Mfn(3)
    }
    const fn area_pages(&self) -> u64 {
        SHARED_PAGES + self.with_scribe * PCPU_PAGES
    }
    const fn m2p_l3(&self) -> Mfn {
        Mfn(self.area_l1().0 + self.area_pages().div_ceil(ENTRIES as u64))
    }
    const fn m2p_l2(&self) -> Mfn {
        Mfn(self.m2p_l3().0 + 1)
    }
    const fn m2p_l1(&self) -> Mfn {
        Mfn(self.m2p_l2().0 + 1)
    }
    const fn m2p_frames(&self) -> u64 {
        (self.frames * 8).div_ceil(PAGE_SIZE as u64)
    }
    const fn direct_l3(&self) -> Mfn {
        Mfn(self.m2p_l1().0 + self.m2p_frames().div_ceil(ENTRIES as u64))
    }
    const fn direct_l2(&self) -> Mfn {
        Mfn(self.direct_l3().0 + 1)
    }
    const fn direct_tables(&self) -> u64 {
        (self.frames * PAGE_SIZE as u64).div_ceil(1 << Level::L3.shift())
    }
    /// The scribe's root table.
    pub const fn scribe_root(&self) -> Mfn {
        Mfn(self.direct_l2().0 + self.direct_tables())
    }
    /// The L3, L2 or L1 table of doorbell page `page`.
    const fn doorbell_table(&self, page: usize, below_l4: u64) -> Mfn {
        Mfn(self.scribe_root().0 + page as u64 * 3 + below_l4)
    }
    const fn shared_page(&self, n: u64) -> Mfn {
        Mfn(self.doorbell_table(DOORBELL_PAGES, 1).0 + n)
    }
    /// The first frame for run `run` of the probes, which is below [`PROBE_RUNS`].
    pub const fn probe(&self, run: u64) -> Mfn {
        Mfn(self.shared_page(SHARED_PAGES).0 + self.with_scribe * PCPU_PAGES + run * PROBE_FRAMES)
    }
    const fn m2p_first(&self) -> Mfn {
        self.probe(PROBE_RUNS)
    }

    /// Frame of the stub's code.
    pub const fn stub(&self) -> Mfn {
        self.shared_page(0)
    }
    /// Frame that `syscall` lands on.
    pub const fn lstar(&self) -> Mfn {
        self.shared_page(1)
    }
    /// The frame of the page at [`IDT`].
    pub const fn idt(&self) -> Mfn {
        self.shared_page(2)
    }

    /// The pages of pcpu `number`; the scribe's number is that of the pcpus.
    pub const fn pcpu(&self, number: u64) -> PcpuPages {
        let n = SHARED_PAGES + number * PCPU_PAGES;
        PcpuPages { first: self.shared_page(n), address: AREA + n * PAGE_SIZE as u64 }
    }

    /// The pages of the scribe.
    pub const fn scribe(&self) -> PcpuPages {
        self.pcpu(self.pcpus)
    }

    /// Writes the tables, the gate's page left out: [`Self::map_gate`] maps it where it is needed.
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the machine is too small to hold them.
    pub fn write_tables(&self, memory: &MachineMemory) -> Result<(), NoSuchFrame> {
        let upper = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER;
        let set = |table: Mfn, index: u64, mfn: Mfn, flags| {
            let table = Mfn(table.0 + index / ENTRIES as u64);
            memory.exchange_entry(table, index as usize % ENTRIES, Pte::new(mfn, flags), 0).map(|_| ())
        };
        set(self.area_l3(), 0, self.area_l2(), upper)?;
        for n in 0..self.area_pages().div_ceil(ENTRIES as u64) {
            set(self.area_l2(), n, Mfn(self.area_l1().0 + n), upper)?;
        }
        let private = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::NO_EXECUTE;
        set(self.area_l1(), 0, self.stub(), PteFlags::PRESENT)?;
        set(self.area_l1(), 2, self.idt(), private)?;
        set(self.area_l1(), 3, Mfn::containing(self.doorbells.hypercalls()), private | PteFlags::USER)?;
        for n in SHARED_PAGES..self.area_pages() {
            set(self.area_l1(), n, self.shared_page(n), private)?;
        }

        let readable = PteFlags::PRESENT | PteFlags::USER;
        set(self.m2p_l3(), 0, self.m2p_l2(), readable)?;
        for n in 0..self.m2p_frames().div_ceil(ENTRIES as u64) {
            set(self.m2p_l2(), n, Mfn(self.m2p_l1().0 + n), readable)?;
        }
        for n in 0..self.m2p_frames() {
            set(self.m2p_l1(), n, Mfn(self.m2p_first().0 + n), readable | PteFlags::NO_EXECUTE)?;
        }
        self.write_doorbell_tables(memory)?;
        self.write_scribe_tables(memory)
    }

    fn write_doorbell_tables(&self, memory: &MachineMemory) -> Result<(), NoSuchFrame> {
        let flags = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER;
        let set = |table, level: Level, pte| {
            memory.exchange_entry(table, level.index(DOORBELL_ADDRESS), pte, 0).map(|_| ())
        };
        for page in 0..DOORBELL_PAGES {
            let [l3, l2, l1] = [1, 2, 3].map(|below_l4| self.doorbell_table(page, below_l4));
            set(l3, Level::L3, Pte::new(l2, flags))?;
            set(l2, Level::L2, Pte::new(l1, flags))?;
            let doorbell = Mfn::containing(self.doorbells.page(page));
            set(l1, Level::L1, Pte::new(doorbell, flags | PteFlags::NO_EXECUTE))?;
        }
        Ok(())
    }

    fn write_scribe_tables(&self, memory: &MachineMemory) -> Result<(), NoSuchFrame> {
        let flags = PteFlags::PRESENT | PteFlags::WRITABLE;
        let root = self.scribe_root();
        let set = |table, index, pte| memory.exchange_entry(table, index, pte, 0).map(|_| ());
        for (n, slot) in self.slots(false).iter().enumerate() {
            set(root, FIRST_HYPERVISOR_SLOT + n, *slot)?;
        }
        set(root, Level::L4.index(DIRECT_MAP), Pte::new(self.direct_l3(), flags))?;
        for n in 0..self.direct_tables() {
            set(self.direct_l3(), n as usize, Pte::new(Mfn(self.direct_l2().0 + n), flags))?;
        }
        // Large pages: nobody but the scribe, who is no guest, walks these.
        for n in 0..(self.frames * PAGE_SIZE as u64).div_ceil(1 << Level::L2.shift()) {
            let table = Mfn(self.direct_l2().0 + n / ENTRIES as u64);
            let large = flags | PteFlags::PAGE_SIZE_OR_PAT | PteFlags::NO_EXECUTE;
            set(table, n as usize % ENTRIES, Pte::new(Mfn(n * ENTRIES as u64), large))?;
        }
        Ok(())
    }

    /// Maps the page of the gate, for CPL3 to execute.
    ///
    /// # Errors
    /// As [`Self::write_tables`].
    pub fn map_gate(&self, memory: &MachineMemory) -> Result<(), NoSuchFrame> {
        let gate = Pte::new(self.lstar(), PteFlags::PRESENT | PteFlags::USER);
        memory.exchange_entry(self.area_l1(), 1, gate, 0).map(|_| ())
    }

    /// What slots 256–271 of an L4 table hold.
    pub fn slots(&self, m2p_at_fixed_address: bool) -> [Pte; super::super::layout::HYPERVISOR_SLOTS] {
        let mut slots = [Pte(0); super::super::layout::HYPERVISOR_SLOTS];
        let m2p = Pte::new(self.m2p_l3(), PteFlags::PRESENT | PteFlags::USER);
        if m2p_at_fixed_address {
            slots[0] = m2p;
        }
        slots[1] = Pte::new(self.area_l3(), PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER);
        slots[2] = m2p;
        slots
    }

    /// What the slot of doorbells holds in the L4 tables of the domain that has this page.
    fn doorbell_slot(&self, page: usize) -> Pte {
        Pte::new(self.doorbell_table(page, 1), PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER)
    }

    /// The layout that the layers above see.
    pub fn layout(&self, m2p_at_fixed_address: bool, hypercall_page: Vec<u8>) -> Layout {
        let m2p = self.m2p_first().0;
        Layout {
            frames: self.frames,
            entries: ENTRIES,
            m2p: m2p..m2p + self.m2p_frames(),
            first_free: Mfn(self.frames_needed()),
            slots: self.slots(m2p_at_fixed_address),
            doorbell_pages: (0..DOORBELL_PAGES).map(|page| self.doorbell_slot(page)).collect(),
            m2p_address: M2P_ADDRESS..M2P_ADDRESS + self.frames * 8,
            m2p_at_fixed_address,
            hypercall_page,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::DOORBELL_SLOT;
    use super::*;

    #[test]
    fn the_documentation_tells_how_many_doorbells_there_are() {
        let text = include_str!("../../../../ARCHITECTURE.md");
        for words in [
            format!("the machine's {DOORBELL_PAGES} doorbell pages"),
            format!("slot {DOORBELL_SLOT} of the domain's roots"),
            format!("may have {DOORBELLS_PER_PAGE} doorbells"),
        ] {
            assert!(text.contains(&words), "no {words}");
        }
        assert_eq!(DOORBELL_PAGES, 30);
        assert!(include_str!("../../../../docs/limits.md").contains("Thirty domains at a time"));
    }

    /// On a CPU with Meltdown a guest could read all memory that its root maps for CPL0.
    #[test]
    fn the_direct_map_stands_in_the_scribes_root_only() {
        let area = Area::new(1 << 12, 2, DoorbellAddresses::HIGHEST);
        let memory = MachineMemory::new(1 << 12).unwrap();
        area.write_tables(&memory).unwrap();
        let slot = Level::L4.index(DIRECT_MAP);
        assert!(memory.entry(area.scribe_root(), slot).unwrap().is_present());
        for m2p_at_fixed_address in [false, true] {
            let slots = area.slots(m2p_at_fixed_address);
            assert!(slots[slot - FIRST_HYPERVISOR_SLOT..].iter().all(|slot| *slot == Pte(0)), "{slots:?}");
        }
    }

    /// A second page there, or one of another domain's, would be another domain's doorbell.
    #[test]
    fn a_doorbell_slot_leads_to_its_own_page_and_nowhere_else() {
        let area = Area::new(1 << 12, 2, DoorbellAddresses::HIGHEST);
        let memory = MachineMemory::new(1 << 12).unwrap();
        area.write_tables(&memory).unwrap();
        let only_entry = |table: Mfn| {
            let entries = (0..ENTRIES).map(|index| (index, memory.entry(table, index).unwrap()));
            let present: Vec<_> = entries.filter(|(_, entry)| entry.is_present()).collect();
            assert_eq!(present.len(), 1, "{table}");
            present[0]
        };
        assert_eq!(Level::L4.index(DOORBELL_ADDRESS), DOORBELL_SLOT);
        let slots = area.layout(false, Vec::new()).doorbell_pages;
        assert_eq!(slots.len(), DOORBELL_PAGES);
        for (page, slot) in slots.into_iter().enumerate() {
            let mut entry = slot;
            let open = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER;
            assert!(slot.flags().contains(open), "page {page}");
            for level in [Level::L3, Level::L2, Level::L1] {
                let (index, below) = only_entry(entry.mfn());
                assert_eq!(index, level.index(DOORBELL_ADDRESS), "page {page}");
                assert!(below.flags().contains(open), "page {page}, {level:?}");
                entry = below;
            }
            assert_eq!(entry.mfn().address(), area.doorbells.page(page));
            let is_page = area.doorbells.is_page(entry.mfn().address());
            assert!(is_page && entry.flags().contains(PteFlags::NO_EXECUTE));
        }
        let doorbells = area.doorbells;
        assert!(!doorbells.is_page(doorbells.hypercalls()) && !doorbells.is_page(doorbells.page(0) + 4));
        assert!(!doorbells.is_page(doorbells.page(DOORBELL_PAGES)));
    }

    /// Bits beyond what the host has are reserved in entries: a doorbell there would be a fault.
    #[test]
    fn doorbells_lie_within_the_hosts_addresses_and_behind_all_memory() {
        for (bits, used) in [(36, 36), (39, 39), (40, 40), (46, 40), (52, 40), (0, 36)] {
            let doorbells = DoorbellAddresses::on_host(bits);
            assert_eq!(doorbells.hypercalls(), (1 << used) - PAGE_SIZE as u64, "{bits}");
            let behind_memory = doorbells.most_frames() * PAGE_SIZE as u64;
            assert!((0..DOORBELL_PAGES).all(|page| doorbells.page(page) >= behind_memory));
            assert_eq!(doorbells.page(DOORBELL_PAGES - 1), behind_memory, "none of it is lost");
        }
    }
}
