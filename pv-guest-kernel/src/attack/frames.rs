//! Frames and addresses that are not the domain's.

use alloc::collections::BTreeSet;

use pv_abi::address::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp, MmuUpdate, MmuUpdateKind, UpdateVaMappingFlags};
use pv_abi::page_table::{FIRST_HYPERVISOR_SLOT, LAST_HYPERVISOR_SLOT, Pte, PteFlags};
use pv_abi::{Errno, Mfn, Pfn};

use super::report::Report;
use super::{Hex, hypervisor_addresses};
use crate::grant::table;
use crate::memory::{KERNEL_DATA, KERNEL_READ_ONLY, linear, translation};
use crate::selftest::descriptors::{set_gdt, update_descriptor};
use crate::selftest::laboratory::{self, Page};
use crate::selftest::mappings::{mmu_update, mmuext_op, place_of};
use crate::start_info;

pub fn run(report: &mut Report) {
    addresses(report);
    let targets = targets();
    for (what, attempt) in MAPPINGS {
        report.everywhere(what, targets.iter().map(|mfn| (mfn, attempt(*mfn))));
    }
    // Frames that no machine has are no better. They are not mapped: for a control domain they are
    // devices, and an entry has no room for all bits of their numbers.
    let nonsense = [Mfn(u64::MAX), Mfn(1 << 40), Mfn(translation::m2p().max_mfn + 1)];
    for (what, attempt) in OPERATIONS {
        let places = targets.iter().chain(&nonsense);
        report.everywhere(what, places.map(|mfn| (mfn, attempt(*mfn))));
    }
}

/// The hypervisor's own addresses. Its M2P may be read: that is what it is for.
fn addresses(report: &mut Report) {
    let m2p = translation::m2p();
    let readable = |address: &u64| {
        (m2p.v_start..m2p.v_end).contains(address)
            || (MACH2PHYS_VIRT_START..MACH2PHYS_VIRT_END).contains(address)
    };
    let places = || hypervisor_addresses().map(Hex);
    report.everywhere(
        "writing the hypervisor at",
        places().map(|place| (place, laboratory::write(place.0, 0))),
    );
    report.everywhere(
        "reading the hypervisor at",
        places().filter(|place| !readable(&place.0)).map(|place| (place, laboratory::read(place.0))),
    );
    // SAFETY: if there is something to run there, the attack has succeeded anyway.
    let run = |address| unsafe { crate::arch::guard::call(address, 0, 0, 0) };
    report.everywhere("executing the hypervisor at", places().map(|place| (place, run(place.0))));
}

/// Frames of the hypervisor's, as far as a guest can name them: what the hypervisor's slots of my own
/// root refer to, and what lies next to my own frames.
pub fn targets() -> BTreeSet<Mfn> {
    let slots = (FIRST_HYPERVISOR_SLOT..=LAST_HYPERVISOR_SLOT)
        .map(|slot| linear::read(linear::root(), slot))
        .filter(|entry| entry.is_present())
        .map(Pte::mfn);
    let own = || (0..translation::frames()).map(|pfn| translation::mfn(Pfn(pfn)).0);
    let below = own().min().and_then(|mfn| mfn.checked_sub(1)).map(Mfn);
    let above = own().max().map(|mfn| Mfn(mfn + 1)).filter(|mfn| mfn.0 <= translation::m2p().max_mfn);
    // A control domain may have given the frames next to it a use; it may also map devices.
    let neighbours = [below, above].into_iter().flatten().filter(|_| !start_info::is_control_domain());
    let shared = Mfn::containing(start_info::with(|info| info.shared_info));
    let lending = table::set_up(1).unwrap_or_default();
    let mine = |mfn: &Mfn| translation::pfn(*mfn).is_some() || *mfn == shared || lending.contains(mfn);
    slots.chain(neighbours).filter(|mfn| !mine(mfn)).collect()
}

/// An attempt on a frame.
type Attempt = (&'static str, fn(Mfn) -> Result<u64, Errno>);

const MAPPINGS: [Attempt; 3] = [
    ("a writable mapping of the hypervisor's frames in", |mfn| map(mfn, KERNEL_DATA)),
    ("a read-only mapping of the hypervisor's frames in", |mfn| map(mfn, KERNEL_READ_ONLY)),
    ("a writable mapping of them by mmu_update in", |mfn| {
        let page = Page::new();
        update(place_of(page.address()), Pte::new(mfn, KERNEL_DATA).0)
    }),
];

const OPERATIONS: [Attempt; 12] = [
    ("updating an entry of frames not mine in", |mfn| update(mfn.address(), 0)),
    ("changing the M2P entry of frames not mine in", |mfn| {
        update(mfn.address() | MmuUpdateKind::MACHPHYS_UPDATE.0, 1)
    }),
    ("pinning frames not mine as an L1 in", |mfn| operate(MmuExtCommand::PIN_L1_TABLE, mfn, Mfn(0))),
    ("pinning frames not mine as an L4 in", |mfn| operate(MmuExtCommand::PIN_L4_TABLE, mfn, Mfn(0))),
    ("unpinning frames not mine in", |mfn| operate(MmuExtCommand::UNPIN_TABLE, mfn, Mfn(0))),
    ("loading frames not mine as a root in", |mfn| operate(MmuExtCommand::NEW_BASEPTR, mfn, Mfn(0))),
    ("loading frames not mine as a user root in", |mfn| {
        operate(MmuExtCommand::NEW_USER_BASEPTR, mfn, Mfn(0))
    }),
    ("clearing frames not mine in", |mfn| operate(MmuExtCommand::CLEAR_PAGE, mfn, Mfn(0))),
    ("copying to frames not mine in", |mfn| operate(MmuExtCommand::COPY_PAGE, mfn, Page::new().mfn())),
    ("copying from frames not mine in", |mfn| operate(MmuExtCommand::COPY_PAGE, Page::new().mfn(), mfn)),
    ("taking frames not mine as a descriptor table in", |mfn| set_gdt(&[mfn.0], 512)),
    ("updating a descriptor of frames not mine in", |mfn| update_descriptor(mfn.address(), 0)),
];

fn map(mfn: Mfn, flags: PteFlags) -> Result<u64, Errno> {
    Page::new().map(mfn, flags, UpdateVaMappingFlags::INVLPG)
}

fn update(ptr: u64, val: u64) -> Result<u64, Errno> {
    mmu_update(&[MmuUpdate { ptr, val }]).0
}

fn operate(command: MmuExtCommand, first: Mfn, second: Mfn) -> Result<u64, Errno> {
    mmuext_op(&[MmuExtOp { arg2: second.0, ..MmuExtOp::new(command, first.0) }]).0
}
