//! Mappings of pages: `update_va_mapping`, `mmu_update` on first-level tables, and flushes.

use pv_abi::Errno;
use pv_abi::hypercall::HypercallNumber;
use pv_abi::mmu::{MmuExtCommand, MmuExtOp, MmuUpdate, MmuUpdateKind, UpdateVaMappingFlags};
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Pfn};

use super::laboratory::{self, Page, read, write};
use super::report::Report;
use super::{WILD, hypercall};
use crate::memory::{KERNEL_CODE, KERNEL_DATA, KERNEL_READ_ONLY, linear, translation};

const PAGE_FAULT: u64 = 14;
const INVLPG: UpdateVaMappingFlags = UpdateVaMappingFlags::INVLPG;

pub fn run(report: &mut Report) {
    rights(report);
    remapping(report);
    own_tables(report);
    stores(report);
    updates(report);
    flushes(report);
}

/// The machine address of the entry that maps an address of the linear map.
pub fn place_of(address: u64) -> u64 {
    let table = linear::table(linear::root(), Level::L1, address).expect("a linear address");
    linear::entry_address(table, Level::L1, address)
}

/// `mmu_update` with the number of updates made.
pub fn mmu_update(updates: &[MmuUpdate]) -> (Result<u64, Errno>, u32) {
    let mut done = 0u32;
    let args = [updates.as_ptr() as u64, updates.len() as u64, &raw mut done as u64, SELF, 0];
    (hypercall(HypercallNumber::MMU_UPDATE, args), done)
}

const SELF: u64 = DomId::SELF.0 as u64;

fn rights(report: &mut Report) {
    let page = Page::new();
    report.done("a page made read-only", page.protect(KERNEL_READ_ONLY));
    let fault = write(page.address(), 1);
    report.traps("writing a read-only page", &fault, PAGE_FAULT, 3);
    let address = fault.err().map(|trap| trap.address);
    report.equal("the address of that fault", address, Some(page.address()));
    report.runs("reading a read-only page", &read(page.address()), 0);
    let flush_all = UpdateVaMappingFlags::TLB_FLUSH | UpdateVaMappingFlags::ALL;
    report.done("a page made writable again", page.map(page.mfn(), KERNEL_DATA, flush_all));
    write(page.address(), 77).ok();
    report.runs("writing and reading a writable page", &read(page.address()), 77);
    report.done("a page unmapped", page.map(page.mfn(), PteFlags::empty(), INVLPG));
    report.traps("reading an unmapped page", &read(page.address()), PAGE_FAULT, 0);
    let no_flush = UpdateVaMappingFlags::empty();
    report.done("a page mapped again, without a flush", page.map(page.mfn(), KERNEL_DATA, no_flush));
    report.runs("the contents of that page", &read(page.address()), 77);
    linear::store(page.pfn(), laboratory::code::ANSWER);
    // SAFETY: hand-made code.
    let call = || unsafe { crate::arch::guard::call(page.address(), 0, 0, 0) };
    report.traps("executing a page that is not executable", &call(), PAGE_FAULT, 0x11);
    report.done("a page made executable", page.protect(KERNEL_CODE));
    report.runs("executing an executable page", &call(), 42);
}

fn remapping(report: &mut Report) {
    let (first, second) = (Page::new(), Page::new());
    first.set(0, 1);
    second.set(0, 2);
    let swapped = first.map(second.mfn(), KERNEL_DATA, INVLPG);
    report.done("another frame mapped in a page's place", swapped);
    report.runs("what is read there", &read(first.address()), 2);
    let flush = UpdateVaMappingFlags::TLB_FLUSH;
    report.done("the first frame mapped again", first.map(first.mfn(), KERNEL_DATA, flush));
    report.runs("what is read then", &read(first.address()), 1);
    let wild = hypercall(HypercallNumber::UPDATE_VA_MAPPING, [1 << 40, 0, 0, 0, 0]);
    report.refused("mapping where there is no table", wild, Errno::EINVAL);
}

fn own_tables(report: &mut Report) {
    let page = Page::new();
    for level in Level::ALL {
        let table = linear::table(linear::root(), level, page.address()).expect("a linear address");
        let frame = translation::mfn(table);
        let name = alloc::format!("my own {level:?}");
        let writable = page.map(frame, KERNEL_DATA, INVLPG);
        report.refused(&alloc::format!("writable mapping of {name}"), writable, Errno::EBUSY);
        let readable = page.map(frame, KERNEL_READ_ONLY, INVLPG);
        report.done(&alloc::format!("read-only mapping of {name}"), readable);
        if level != Level::L1 {
            let stored = write(linear::address(table), 0);
            report.traps(&alloc::format!("storing into {name}"), &stored, PAGE_FAULT, 3);
        }
    }
}

/// A store into an L1 is treated as an update, or faults where the hypervisor does not do that; one that
/// would be refused as an update faults.
fn stores(report: &mut Report) {
    let page = Page::new();
    let table = linear::table(linear::root(), Level::L1, page.address()).expect("a linear address");
    let index = Level::L1.index(page.address());
    let place = linear::address(table) + index as u64 * 8;
    let before = linear::read(table, index);
    let wanted = Pte::new(page.mfn(), KERNEL_READ_ONLY);
    let stored = write(place, wanted.0);
    let emulated = stored.is_ok() && linear::read(table, index).flags().contains(KERNEL_READ_ONLY);
    let faulted = stored.is_err_and(|trap| trap.vector == PAGE_FAULT && trap.error == 3);
    report.check(
        "storing into my own L1",
        emulated != faulted,
        if emulated { "treated as an update" } else { "page fault" },
    );
    page.protect(KERNEL_DATA).ok();
    let bad = write(place, Pte::new(translation::mfn(table), KERNEL_DATA).0);
    report.traps("storing a writable mapping of a table into it", &bad, PAGE_FAULT, 3);
    report.equal("the entry after that", linear::read(table, index).mfn(), before.mfn());
}

fn updates(report: &mut Report) {
    let (page, other) = (Page::new(), Page::new());
    let place = place_of(page.address());
    let entry = |pfn: Pfn, flags| Pte::new(translation::mfn(pfn), flags).0;
    let good = MmuUpdate { ptr: place, val: entry(page.pfn(), KERNEL_DATA) };
    let table = linear::table(linear::root(), Level::L1, page.address()).expect("a linear address");
    let bad = MmuUpdate { ptr: place_of(other.address()), val: entry(table, KERNEL_DATA) };
    report.equal("updates up to the first bad one", mmu_update(&[good, bad, good]), (Err(Errno::EBUSY), 1));
    report.equal("updates of which none is bad", mmu_update(&[good, good, good]), (Ok(0), 3));

    let no_table = MmuUpdate { ptr: page.mfn().address(), val: 0x99 };
    report.done("an update of an ordinary page of mine", mmu_update(&[no_table]).0);
    report.equal("what the page holds then", page.get(0), 0x99);
    let preserve = MmuUpdateKind::PT_UPDATE_PRESERVE_AD.0;
    let bare = KERNEL_DATA.difference(PteFlags::ACCESSED.union(PteFlags::DIRTY));
    let update = MmuUpdate { ptr: place | preserve, val: entry(page.pfn(), bare) };
    report.done("an update that preserves A and D", mmu_update(&[update]).0);
    let kept = linear::read(table, Level::L1.index(page.address())).flags();
    report.check(
        "A and D after it",
        kept.contains(PteFlags::ACCESSED | PteFlags::DIRTY),
        format_args!("{:#x}", kept.bits()),
    );
    machine_to_physical(report, &page);
    let wild = hypercall(HypercallNumber::MMU_UPDATE, [WILD, 1, 0, SELF, 0]);
    report.refused("updates at a wild address", wild, Errno::EFAULT);
}

fn machine_to_physical(report: &mut Report, page: &Page) {
    let set = |pfn: u64| {
        let ptr = page.mfn().address() | MmuUpdateKind::MACHPHYS_UPDATE.0;
        mmu_update(&[MmuUpdate { ptr, val: pfn }]).0
    };
    report.done("an M2P entry changed", set(0x1234));
    report.equal("its new value", translation::machine_to_physical(page.mfn()), Some(Pfn(0x1234)));
    report.done("the M2P entry put back", set(page.pfn().0));
}

fn flushes(report: &mut Report) {
    let mask = 1u64;
    let address = Page::new().address();
    for (command, arg1, arg2) in [
        (MmuExtCommand::TLB_FLUSH_LOCAL, 0, 0),
        (MmuExtCommand::INVLPG_LOCAL, address, 0),
        (MmuExtCommand::TLB_FLUSH_MULTI, 0, &raw const mask as u64),
        (MmuExtCommand::INVLPG_MULTI, address, &raw const mask as u64),
        (MmuExtCommand::TLB_FLUSH_ALL, 0, 0),
        (MmuExtCommand::INVLPG_ALL, address, 0),
    ] {
        let operation = MmuExtOp { arg2, ..MmuExtOp::new(command, arg1) };
        report.equal(command.name().unwrap_or("flush"), mmuext_op(&[operation]), (Ok(0), 1));
    }
    let unknown = [MmuExtOp::new(MmuExtCommand::TLB_FLUSH_LOCAL, 0), MmuExtOp::new(MmuExtCommand(99), 0)];
    report.equal("an unknown extended operation", mmuext_op(&unknown), (Err(Errno::ENOSYS), 1));
}

/// `mmuext_op` with the number of operations made.
pub fn mmuext_op(operations: &[MmuExtOp]) -> (Result<u64, Errno>, u32) {
    let mut done = 0u32;
    let args = [operations.as_ptr() as u64, operations.len() as u64, &raw mut done as u64, SELF, 0];
    (hypercall(HypercallNumber::MMUEXT_OP, args), done)
}
