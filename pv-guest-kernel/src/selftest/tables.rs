//! Page tables of one's own: validated when they are pinned, and then tables until they are unpinned.

use pv_abi::Errno;
use pv_abi::mmu::{MmuExtCommand, MmuExtOp, MmuUpdate};
use pv_abi::page_table::{Level, Pte, PteFlags};

use super::laboratory::{Page, read};
use super::mappings::{mmu_update, mmuext_op};
use super::report::Report;
use crate::memory::{KERNEL_DATA, KERNEL_READ_ONLY, TABLE, linear};
use crate::user::address_space::{self, AddressSpace, DATA};

fn pin(level: Level, table: &Page) -> Result<u64, Errno> {
    let command = MmuExtCommand(MmuExtCommand::PIN_L1_TABLE.0 + level as u32 - 1);
    mmuext_op(&[MmuExtOp::new(command, table.mfn().0)]).0
}

fn unpin(table: &Page) -> Result<u64, Errno> {
    mmuext_op(&[MmuExtOp::new(MmuExtCommand::UNPIN_TABLE, table.mfn().0)]).0
}

/// A tree of one table a level, above one page.
struct Tree {
    page: Page,
    /// By level, lowest first.
    tables: [Page; 4],
}

impl Tree {
    fn new() -> Self {
        let page = Page::new();
        let tables = [Page::new(), Page::new(), Page::new(), Page::new()];
        tables[0].set(0, Pte::new(page.mfn(), DATA).0);
        for level in 1..4 {
            tables[level].set(0, Pte::new(tables[level - 1].mfn(), TABLE).0);
        }
        Self { page, tables }
    }
}

pub fn run(report: &mut Report) {
    let tree = Tree::new();
    pins(report, &tree);
    entries(report, &tree);
    live_updates(report, &tree);
    roots(report);
}

fn pins(report: &mut Report, tree: &Tree) {
    let [l1, l2, ..] = &tree.tables;
    report.refused("pinning a table that is mapped writable", pin(Level::L1, l1), Errno::EINVAL);
    for table in &tree.tables {
        table.protect(KERNEL_READ_ONLY).ok();
    }
    for (level, table) in Level::ALL.into_iter().zip(&tree.tables) {
        report.done(&alloc::format!("pinning an {level:?}"), pin(level, table));
    }
    report.refused("pinning an L1 twice", pin(Level::L1, l1), Errno::EINVAL);
    report.refused("pinning an L1 as an L2", pin(Level::L2, l1), Errno::EINVAL);
    let writable = l2.protect(KERNEL_DATA);
    report.refused("making a pinned table writable", writable, Errno::EBUSY);
    for (level, table) in Level::ALL.into_iter().zip(&tree.tables) {
        report.done(&alloc::format!("unpinning an {level:?}"), unpin(table));
    }
    report.refused("unpinning what is not pinned", unpin(l1), Errno::EINVAL);
    report.done("a former table made writable", l1.protect(KERNEL_DATA));
    l1.protect(KERNEL_READ_ONLY).ok();
}

/// Tables that must not be validated.
fn entries(report: &mut Report, tree: &Tree) {
    let table = Page::new();
    for (what, entry, level, error) in [
        (
            "an L2 with a large page",
            Pte::new(tree.page.mfn(), TABLE | PteFlags::PAGE_SIZE_OR_PAT),
            Level::L2,
            Errno::EINVAL,
        ),
        ("an L2 with an ordinary page", Pte::new(tree.page.mfn(), TABLE), Level::L2, Errno::EINVAL),
        ("an L3 with an L1", Pte::new(tree.tables[0].mfn(), TABLE), Level::L3, Errno::EINVAL),
        ("an L1 that maps itself writable", Pte::new(table.mfn(), DATA), Level::L1, Errno::EBUSY),
    ] {
        table.protect(KERNEL_DATA).ok();
        table.set(3, entry.0);
        table.protect(KERNEL_READ_ONLY).ok();
        report.refused(&alloc::format!("pinning {what}"), pin(level, &table), error);
    }
}

/// Puts the tree into the root that is in use, and takes it out again.
fn live_updates(report: &mut Report, tree: &Tree) {
    const SLOT: usize = 300;
    let address = (SLOT as u64) << Level::L4.shift() | 0xffff << 48;
    let [l1, l2, l3, _] = &tree.tables;
    tree.page.set(5, 55);
    let set = |table: u64, index: usize, entry: Pte| {
        mmu_update(&[MmuUpdate { ptr: table + index as u64 * 8, val: entry.0 }]).0
    };
    let root = crate::memory::translation::mfn(linear::root()).address();
    report.done("a third-level table put into my root", set(root, SLOT, Pte::new(l3.mfn(), TABLE)));
    report.runs("reading through the table in my root", &read(address + 40), 55);
    let l1_place = l1.mfn().address();
    report.done("the entry of the L1 cleared", set(l1_place, 0, Pte(0)));
    mmuext_op(&[MmuExtOp::new(MmuExtCommand::INVLPG_LOCAL, address)]).0.ok();
    report.traps("reading through the cleared L1", &read(address + 40), 14, 0);
    report.done("the entry of the L1 set again", set(l1_place, 0, Pte::new(tree.page.mfn(), DATA)));
    report.runs("reading through the L1 set again", &read(address + 40), 55);
    report.done("the entry of the L2 cleared", set(l2.mfn().address(), 0, Pte(0)));
    report.done("the entry of the L3 cleared", set(l3.mfn().address(), 0, Pte(0)));
    report.done("the entry of my root cleared", set(root, SLOT, Pte(0)));
    mmuext_op(&[MmuExtOp::new(MmuExtCommand::TLB_FLUSH_ALL, 0)]).0.ok();
    report.traps("reading through the cleared root", &read(address + 40), 14, 0);
}

fn roots(report: &mut Report) {
    let Ok(mut space) = AddressSpace::new() else {
        return report.check("an address space", false, "no memory");
    };
    let mapped = space.map(0x1000, DATA);
    report.check("an address space of two roots", mapped.is_ok() && space.activate().is_ok(), "validated");
    report.done("loading both roots", space.load().map(|()| 0));
    report.runs("reading user memory from kernel mode", &read(0x1000), 0);
    let later = space.map(0x20_0000, DATA);
    report.check("mapping more while it is loaded", later.is_ok(), "done");
    report.runs("reading that", &read(0x20_0000), 0);
    report.done("loading the kernel's root", address_space::load_kernel().map(|()| 0));
    report.traps("reading user memory then", &read(0x1000), 14, 0);
    let garbage = Page::new();
    let load = |command| mmuext_op(&[MmuExtOp::new(command, garbage.mfn().0)]).0;
    report.refused("loading a root that is writable", load(MmuExtCommand::NEW_BASEPTR), Errno::EINVAL);
    report.refused("the same for user mode", load(MmuExtCommand::NEW_USER_BASEPTR), Errno::EINVAL);
}
