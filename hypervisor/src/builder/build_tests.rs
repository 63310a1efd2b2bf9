use super::*;
use crate::builder::Wishes;
use crate::builder::image_maker::{Maker, VIRT_BASE};
use crate::machine::fake::FakeMachine;
use pv_abi::elf_note::NoteType;

const DOMAIN: DomId = DomId(1);
const P2M_BASE: u64 = 0x80_0000_0000;

/// A built domain, and what is needed to look at it.
struct Built {
    mmu: Mmu,
    plan: Plan,
    domain: BuiltDomain,
    shared_info: Mfn,
}

fn plan(image: &KernelImage<'_>, pages: u64, ramdisk: &[u8]) -> Plan {
    let ramdisk = (!ramdisk.is_empty()).then_some(ramdisk.len() as u64);
    Plan::new(image, &Wishes { pages, ramdisk, command_line: "quiet splash".into() }).unwrap()
}

fn machine(frames: u64) -> Mmu {
    let machine = FakeMachine::new(frames);
    Mmu::new(machine.memory, machine.layout, machine.translations)
}

fn built(maker: &Maker, ramdisk: &[u8]) -> Built {
    let file = maker.make();
    let image = KernelImage::parse(&file).unwrap();
    let plan = plan(&image, 4096, ramdisk);
    let mmu = machine(5000);
    let shared_info = mmu.allocate_shared(DOMAIN).unwrap();
    let identity =
        Identity { domain: DOMAIN, shared_info, console_port: EventPort(3), store_port: EventPort(4) };
    let domain = build(&mmu, identity, &image, ramdisk, &plan).unwrap();
    Built { mmu, plan, domain, shared_info }
}

impl Built {
    /// The L1 entry that maps an address.
    fn walk(&self, address: u64) -> Option<Pte> {
        let mut table = self.domain.root;
        for level in Level::ALL.into_iter().rev() {
            let entry = self.mmu.memory().entry(table, level.index(address)).unwrap();
            if level == Level::L1 || !entry.is_present() {
                return entry.is_present().then_some(entry);
            }
            table = entry.mfn();
        }
        None
    }

    /// Bytes at a virtual address, within a page.
    fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mfn = self.walk(address).expect("the address is mapped").mfn();
        self.mmu.memory().read(mfn, address as usize % PAGE_SIZE, &mut bytes).unwrap();
        bytes
    }

    fn u64_at(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address, 8).try_into().unwrap())
    }

    fn start_info(&self) -> StartInfo {
        let bytes = self.bytes(self.domain.start_info, size_of::<StartInfo>());
        zerocopy::transmute!(<[u8; size_of::<StartInfo>()]>::try_from(bytes.as_slice()).unwrap())
    }
}

#[test]
fn the_first_vcpu_starts_as_the_abi_says() {
    let built = built(&Maker::default(), b"");
    assert_eq!(built.domain.entry, VIRT_BASE + 0x10_0010);
    assert_eq!(built.domain.start_info, built.plan.address(built.plan.start_info));
    assert_eq!(built.domain.stack, built.plan.address(built.plan.stack) + PAGE_SIZE as u64);
    let mut budget = Budget::unlimited();
    assert!(built.mmu.unpin(DOMAIN, built.domain.root, &mut budget).is_ok(), "the root is pinned");
}

#[test]
fn all_of_the_mapping_is_linear_and_writable_but_for_the_tables() {
    let built = built(&Maker::default(), b"");
    let [mapping] = *built.plan.tables.mappings() else { panic!("one mapping") };
    for pfn in 0..mapping.pages {
        let entry = built.walk(VIRT_BASE + pfn * PAGE_SIZE as u64).expect("mapped");
        let is_table = built.plan.table_frames.contains(&pfn);
        assert_eq!(entry.flags().contains(PteFlags::WRITABLE), !is_table, "pfn {pfn:#x}");
        assert_eq!(built.mmu.pfn(entry.mfn()), Pfn(pfn), "the M2P is right");
        assert_eq!(built.u64_at(built.plan.p2m_address + pfn * 8), entry.mfn().0, "the p2m list is right");
    }
    assert_eq!(built.walk(mapping.last() + 1), None);
}

#[test]
fn image_ramdisk_and_hypercall_page_are_where_the_plan_has_them() {
    let ramdisk: Vec<u8> = (0..9000u32).map(|i| (i / 3) as u8).collect();
    let built = built(&Maker::default(), &ramdisk);
    assert_eq!(built.bytes(VIRT_BASE + 0x10_0000, 8), b"codecode");
    assert_eq!(built.bytes(VIRT_BASE + 0x10_2000, 8), b"datadata");
    assert_eq!(built.bytes(VIRT_BASE + 0x10_2000 + 40, 8), [0; 8], "the rest of the segment is zero");
    assert_eq!(built.bytes(VIRT_BASE + 0x10_1000, 4096), built.mmu.layout().hypercall_page);
    let info = built.start_info();
    assert_eq!((info.mod_start, info.mod_len), (VIRT_BASE + 0x10_4000, 9000));
    assert_eq!(built.bytes(info.mod_start + 8192, 808), ramdisk[8192..]);
}

#[test]
fn start_info_says_what_there_is() {
    let built = built(&Maker::default(), b"");
    let info = built.start_info();
    assert_eq!(&info.magic[..15], b"xen-3.0-x86_64\0");
    assert_eq!((info.nr_pages, info.flags), (4096, 0));
    assert_eq!(info.shared_info, built.shared_info.address());
    assert_eq!((info.console_mfn, info.console_evtchn), (built.domain.console, EventPort(3)));
    assert_eq!((info.store_mfn, info.store_evtchn), (built.domain.store, EventPort(4)));
    assert_eq!(info.pt_base, built.plan.address(built.plan.table_frames.start));
    assert_eq!(built.walk(info.pt_base).unwrap().mfn(), built.domain.root);
    assert_eq!((info.nr_pt_frames, info.mfn_list), (5, built.plan.p2m_address));
    assert_eq!((info.mod_start, info.mod_len, info.first_p2m_pfn, info.nr_p2m_frames), (0, 0, 0, 0));
    assert_eq!(&info.cmd_line[..13], b"quiet splash\0");
}

#[test]
fn p2m_and_ramdisk_that_are_wanted_elsewhere_are_found_there() {
    let maker = Maker::default().note(NoteType::INIT_P2M, P2M_BASE).note(NoteType::MOD_START_PFN, 1);
    let built = built(&maker, b"ramdisk");
    let info = built.start_info();
    assert_eq!(info.mfn_list, P2M_BASE);
    assert_eq!((info.first_p2m_pfn, info.nr_p2m_frames), (1024, 8));
    assert_eq!(info.flags, StartFlags::MOD_START_PFN.bits());
    assert_eq!((info.mod_start, info.mod_len), (1032, 7));
    let ramdisk = Mfn(built.u64_at(P2M_BASE + 1032 * 8));
    let mut bytes = [0; 7];
    built.mmu.memory().read(ramdisk, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"ramdisk");
}

#[test]
fn a_machine_that_is_too_small_is_refused_with_both_figures() {
    let file = Maker::default().make();
    let image = KernelImage::parse(&file).unwrap();
    let plan = plan(&image, 4096, b"");
    let mmu = machine(2048);
    let identity = Identity {
        domain: DOMAIN,
        shared_info: Mfn(0),
        console_port: EventPort(1),
        store_port: EventPort(2),
    };
    let error = build(&mmu, identity, &image, b"", &plan).unwrap_err().to_string();
    let free = Amount(mmu.free_frames());
    assert_eq!(error, format!("the domain needs 16 MiB, and the machine has {free} left"));
}
