use super::*;
use crate::builder::image_maker::{Maker, VIRT_BASE};
use pv_abi::elf_note::NoteType;

const P2M_BASE: u64 = 0x80_0000_0000;

fn plan_of(maker: &Maker, pages: u64, ramdisk: Option<u64>) -> Result<Plan, PlanError> {
    let file = maker.make();
    let image = KernelImage::parse(&file).unwrap();
    Plan::new(&image, &Wishes { pages, ramdisk, command_line: String::new() })
}

#[test]
fn elements_lie_in_the_order_of_the_abi_packed_together() {
    let plan = plan_of(&Maker::default(), 8192, Some(5000)).unwrap();
    assert_eq!(plan.kernel, 0x100..0x104);
    assert_eq!(plan.ramdisk, Some(Ramdisk { pages: 0x104..0x106, bytes: 5000, mapped: true }));
    assert_eq!(plan.p2m, 0x106..0x116);
    assert_eq!(plan.p2m_address, VIRT_BASE + 0x10_6000);
    assert_eq!([plan.start_info, plan.xenstore, plan.console], [0x116, 0x117, 0x118]);
    assert_eq!(plan.table_frames, 0x119..0x11e, "a root, an L3, an L2 and L1 tables for 4 MiB");
    assert_eq!(plan.stack, 0x11e);
    let [bootstrap] = *plan.tables.mappings() else { panic!("one mapping") };
    assert_eq!(bootstrap, Mapping { address: VIRT_BASE, first_pfn: 0, pages: 1024 });
}

#[test]
fn half_a_mebibyte_of_padding_is_kept_even_across_4_mib() {
    // The stack's last page ends 512 KiB below a multiple of 4 MiB: just enough; one page more is not.
    for (kernel_end, pages) in [(1024 - 128 - 25, 1024), (1024 - 128 - 24, 2048)] {
        let mut maker = Maker::default();
        maker.segments[1].memory = kernel_end * PAGE - maker.segments[1].physical;
        let plan = plan_of(&maker, 8192, None).unwrap();
        assert_eq!(plan.tables.mappings()[0].pages, pages, "stack at {:#x}", plan.stack);
        assert!(pages * PAGE - (plan.stack + 1) * PAGE >= PADDING);
    }
}

#[test]
fn p2m_and_ramdisk_that_are_wanted_elsewhere_lie_behind_the_mapping() {
    let maker = Maker::default().note(NoteType::INIT_P2M, P2M_BASE).note(NoteType::MOD_START_PFN, 1);
    let plan = plan_of(&maker, 8192, Some(5000)).unwrap();
    assert_eq!(plan.start_info, 0x104);
    assert_eq!(plan.p2m, 1024..1040);
    assert_eq!(plan.p2m_address, P2M_BASE);
    assert_eq!(plan.ramdisk, Some(Ramdisk { pages: 1040..1042, bytes: 5000, mapped: false }));
    assert_eq!(plan.tables.mappings()[1], Mapping { address: P2M_BASE, first_pfn: 1024, pages: 16 });
    assert_eq!(
        plan.table_frames.end - plan.table_frames.start,
        5 + 3,
        "and an L3, an L2, an L1 for the list"
    );
}

#[test]
fn memory_that_is_too_small_is_refused_with_both_figures_and_the_needed_one_does() {
    for maker in [Maker::default(), Maker::default().note(NoteType::INIT_P2M, P2M_BASE)] {
        for pages in [0, 1, 0x104, 0x110, 1023] {
            let Err(PlanError::MemoryTooSmall { needs, has }) = plan_of(&maker, pages, None) else {
                panic!("{pages} pages are too few")
            };
            assert_eq!(has, Amount(pages));
            assert!(plan_of(&maker, needs.0, None).is_ok());
            assert!(plan_of(&maker, needs.0 - 1, None).is_err());
        }
    }
    let message = |pages| plan_of(&Maker::default(), pages, None).unwrap_err().to_string();
    assert_eq!(message(511), "memory too small: this kernel needs at least 4 MiB, the domain has 2044 KiB");
    assert_eq!(message(1), "memory too small: this kernel needs at least 4 MiB, the domain has 4 KiB");
}

#[test]
fn a_ramdisk_that_is_too_big_is_named() {
    for maker in [Maker::default(), Maker::default().note(NoteType::MOD_START_PFN, 1)] {
        let error = plan_of(&maker, 2048, Some(16 << 20)).unwrap_err();
        let PlanError::RamdiskTooBig { needs, has: Amount(2048) } = error else { panic!("{error}") };
        assert!(plan_of(&maker, needs.0, Some(16 << 20)).is_ok(), "{error}");
        assert!(plan_of(&maker, needs.0 - 1, Some(16 << 20)).is_err(), "{error}");
    }
    let error = plan_of(&Maker::default(), 2048, Some(u64::MAX)).unwrap_err();
    assert!(matches!(error, PlanError::RamdiskTooBig { .. }), "{error}");
}

#[test]
fn command_lines_are_limited() {
    let file = Maker::default().make();
    let image = KernelImage::parse(&file).unwrap();
    let with = |line: String| Plan::new(&image, &Wishes { pages: 8192, ramdisk: None, command_line: line });
    assert!(with("x".repeat(MAX_COMMAND_LINE)).is_ok());
    let error = with("x".repeat(MAX_COMMAND_LINE + 1)).unwrap_err();
    assert_eq!(error.to_string(), "command line too long: 1024 bytes, at most 1023 fit");
    assert_eq!(with("a\0b".into()).unwrap_err(), PlanError::CommandLineHasZero);
}

#[test]
fn addresses_that_are_not_the_guests_are_refused() {
    let at = |virt_base: u64| {
        let maker = Maker::default().note(NoteType::VIRT_BASE, virt_base).without(NoteType::HYPERCALL_PAGE);
        plan_of(&maker.note(NoteType::ENTRY, virt_base.wrapping_add(0x10_0000)), 8192, None)
    };
    assert!(at(0).is_ok(), "as PV-GRUB has it");
    assert!(at(HYPERVISOR_VIRT_END).is_ok());
    for base in [HYPERVISOR_VIRT_START, HYPERVISOR_VIRT_END - (4 << 20), 0x7fff_ffff_f000, 1 << 50] {
        assert!(matches!(at(base), Err(PlanError::AddressRange { .. })), "{base:#x}");
    }
    for p2m in [HYPERVISOR_VIRT_START, VIRT_BASE, VIRT_BASE + 0x10_0000, P2M_BASE + 8, u64::MAX - 4095] {
        let maker = Maker::default().note(NoteType::INIT_P2M, p2m);
        assert!(matches!(plan_of(&maker, 8192, None), Err(PlanError::AddressRange { .. })), "{p2m:#x}");
    }
}

/// An initial mapping up to the last byte of the address space: what lies behind it has no address.
#[test]
fn a_mapping_may_end_where_addresses_end() {
    let base = 0_u64.wrapping_sub(8 << 20);
    let maker = Maker::default().note(NoteType::VIRT_BASE, base).without(NoteType::HYPERCALL_PAGE);
    let maker = maker.note(NoteType::ENTRY, base + 0x10_0000).note(NoteType::INIT_P2M, P2M_BASE);
    let mut maker = maker.note(NoteType::MOD_START_PFN, 1);
    maker.segments[1].memory = (4 << 20) - maker.segments[1].physical;
    let plan = plan_of(&maker, 8192, Some(5000)).unwrap();
    assert_eq!(plan.tables.mappings()[0], Mapping { address: base, first_pfn: 0, pages: 2048 });
    assert_eq!((plan.p2m.start, plan.p2m_address, plan.p2m_in_mapping()), (2048, P2M_BASE, false));
}
