//! Page tables: writable ones, tampered roots, tables of the wrong shape.

use alloc::format;

use pv_abi::Errno;
use pv_abi::hypercall::HypercallNumber;
use pv_abi::mmu::{MmuExtCommand, MmuExtOp, MmuUpdate, UpdateVaMappingFlags};
use pv_abi::page_table::{FIRST_HYPERVISOR_SLOT, LAST_HYPERVISOR_SLOT, Level, Pte, PteFlags};
use pv_abi::{DomId, Mfn};

use super::report::Report;
use crate::memory::{KERNEL_DATA, KERNEL_READ_ONLY, TABLE, linear, translation};
use crate::selftest::hypercall;
use crate::selftest::laboratory::{self, Page};
use crate::selftest::mappings::{mmu_update, mmuext_op, place_of};
use crate::user::address_space::DATA;

pub fn run(report: &mut Report) {
    writable_tables(report);
    hypervisor_slots(report);
    wrong_shapes(report);
    garbage(report);
    stale_translation(report);
}

fn set(table: Mfn, index: usize, entry: Pte) -> Result<u64, Errno> {
    mmu_update(&[MmuUpdate { ptr: table.address() + index as u64 * 8, val: entry.0 }]).0
}

fn pin(command: MmuExtCommand, mfn: Mfn) -> Result<u64, Errno> {
    mmuext_op(&[MmuExtOp::new(command, mfn.0)]).0
}

/// Every table of the current address space, by every way to a writable mapping.
fn writable_tables(report: &mut Report) {
    let page = Page::new();
    for level in Level::ALL {
        let table = linear::table(linear::root(), level, page.address()).expect("a linear address");
        let mfn = translation::mfn(table);
        let entry = Pte::new(mfn, KERNEL_DATA);
        let update = MmuUpdate { ptr: place_of(page.address()), val: entry.0 };
        report.refusal(format!("a writable mapping of my {level:?} by mmu_update"), mmu_update(&[update]).0);
        let mapped = page.map(mfn, KERNEL_DATA, UpdateVaMappingFlags::INVLPG);
        report.refusal(format!("a writable mapping of my {level:?} by update_va_mapping"), mapped);
        let other_args = [page.address(), entry.0, 0, u64::from(DomId::SELF.0), 0];
        let other = hypercall(HypercallNumber::UPDATE_VA_MAPPING_OTHERDOMAIN, other_args);
        report.refusal(format!("a writable mapping of my {level:?} by update_va_mapping_otherdomain"), other);
        let place = linear::address(table) + level.index(page.address()) as u64 * 8;
        let user_entry = Pte::new(mfn, TABLE);
        report.refusal(
            format!("storing a writable mapping of my {level:?} into my {level:?}"),
            laboratory::write(place, user_entry.0),
        );
        let operation = MmuExtOp::new(MmuExtCommand::CLEAR_PAGE, mfn.0);
        report.refusal(format!("clearing my {level:?} as a page"), mmuext_op(&[operation]).0);
        let table_page = Page::new();
        table_page.set(0, Pte::new(mfn, DATA).0);
        table_page.protect(KERNEL_READ_ONLY).expect("a read-only page");
        let pinned = pin(MmuExtCommand::PIN_L1_TABLE, table_page.mfn());
        report.refusal(format!("pinning a table that maps my {level:?} writable"), pinned);
    }
}

/// The part of a root that belongs to the hypervisor.
fn hypervisor_slots(report: &mut Report) {
    let root = translation::mfn(linear::root());
    let l3 = linear::table(linear::root(), Level::L3, linear_address()).expect("a linear address");
    let slots = FIRST_HYPERVISOR_SLOT..=LAST_HYPERVISOR_SLOT;
    for (what, entry) in [
        ("clearing the hypervisor's part of my root in", Pte(0)),
        ("replacing the hypervisor's part of my root in", Pte::new(translation::mfn(l3), TABLE)),
    ] {
        report.everywhere(what, slots.clone().map(|slot| (slot, set(root, slot, entry))));
    }
}

/// Some address of the linear map.
fn linear_address() -> u64 {
    Page::new().address()
}

/// Entries that name a table of the wrong level, or the table itself.
fn wrong_shapes(report: &mut Report) {
    const SLOT: usize = 300;
    let address = linear_address();
    let [l1, l2, l3, root] = Level::ALL
        .map(|level| translation::mfn(linear::table(linear::root(), level, address).expect("linear")));
    report.refusal("my root in itself, writable", set(root, SLOT, Pte::new(root, TABLE)));
    report.refusal("my L2 in my root", set(root, SLOT, Pte::new(l2, TABLE)));
    report.refusal("my L1 in my root", set(root, SLOT, Pte::new(l1, TABLE)));
    report.refusal("my L3 in itself, writable", set(l3, 0, Pte::new(l3, TABLE)));
    report.refusal("my root in an L3", set(l3, 0, Pte::new(root, TABLE)));
    report.refusal("my L1 in an L3", set(l3, 0, Pte::new(l1, TABLE)));
    report.refusal("my L2 in itself, writable", set(l2, 511, Pte::new(l2, TABLE)));
    report.refusal("my L3 in an L2", set(l2, 511, Pte::new(l3, TABLE)));
    let large = TABLE | PteFlags::PAGE_SIZE_OR_PAT;
    report.refusal("a 2 MiB page", set(l2, 511, Pte::new(Mfn(0), large)));
    report.refusal("a 1 GiB page", set(l3, 0, Pte::new(Mfn(0), large)));
    report.refusal("a 512 GiB page", set(root, SLOT, Pte::new(Mfn(0), large)));
    let misaligned = MmuUpdate { ptr: root.address() + 300 * 8 + 4, val: 0 };
    report.refusal("an update of half an entry", mmu_update(&[misaligned]).0);
}

/// Frames full of anything, as roots.
fn garbage(report: &mut Report) {
    let page = Page::new();
    for (what, value) in
        [("ones", u64::MAX), ("random bits", 0x9e37_79b9_7f4a_7c15), ("itself", page.mfn().address() | 7)]
    {
        page.protect(KERNEL_DATA).expect("a writable page");
        (0..512).for_each(|index| page.set(index, value));
        page.protect(KERNEL_READ_ONLY).expect("a read-only page");
        for command in [
            MmuExtCommand::NEW_BASEPTR,
            MmuExtCommand::NEW_USER_BASEPTR,
            MmuExtCommand::PIN_L4_TABLE,
            MmuExtCommand::PIN_L3_TABLE,
            MmuExtCommand::PIN_L2_TABLE,
        ] {
            report.refusal(format!("{command} of a frame full of {what}"), pin(command, page.mfn()));
        }
    }
}

/// A translation that was cached while the frame was writable must not outlive that.
fn stale_translation(report: &mut Report) {
    let page = Page::new();
    let l1 = linear::table(linear::root(), Level::L1, page.address()).expect("a linear address");
    page.set(0, 0);
    let place = place_of(page.address());
    let read_only = MmuUpdate { ptr: place, val: Pte::new(page.mfn(), KERNEL_READ_ONLY).0 };
    let made = mmu_update(&[read_only]).0.and(pin(MmuExtCommand::PIN_L1_TABLE, page.mfn()));
    if made != Ok(0) {
        return report.attempt("a table by a cached writable translation", false, "cannot be set up");
    }
    // Storing a mapping of a table would be refused as an update too; only a stale translation takes it.
    let entry = Pte::new(translation::mfn(l1), KERNEL_DATA);
    report.refusal("writing a new table by a cached translation", laboratory::write(page.address(), entry.0));
    pin(MmuExtCommand::UNPIN_TABLE, page.mfn()).ok();
}
