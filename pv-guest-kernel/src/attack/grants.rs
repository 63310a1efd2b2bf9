//! Grants that would reach what is not lent, or what must not be written.

use alloc::format;
use alloc::vec::Vec;

use pv_abi::grant_table::{GrantEntry, GrantHandle, MapFlags};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use pv_abi::page_table::Level;
use pv_abi::{DomId, GrantRef, Mfn};

use super::frames::targets;
use super::report::Report;
use super::{Hex, hypervisor_addresses};
use crate::grant::table;
use crate::memory::{Window, linear, translation};
use crate::selftest::grants::{Loan, NO_DOMAIN, NO_FRAME, Side, copy, map, replace, unmap};
use crate::selftest::laboratory::Page;
use crate::selftest::mappings::{mmuext_op, place_of};
use crate::{event, start_info};

pub fn run(report: &mut Report) {
    let (Ok(own), Some(window)) = (event::own_domain(), Window::take()) else {
        return report.attempt("grants", false, "cannot be set up");
    };
    references(report, own, window.address());
    frames(report, own, window.address());
    places(report, own, window.address());
    handles(report, own, window.address());
    the_table(report);
}

/// Entries that lend nothing, and domains that lend nothing.
fn references(report: &mut Report, own: DomId, at: u64) {
    let wild = [0x200, 0x4000, 1 << 16, 1 << 29, 1 << 31, u32::MAX];
    report.everywhere(
        "mapping by a wild entry of mine",
        wild.map(|reference| (reference, map(own, GrantRef(reference), 0, at))).into_iter(),
    );
    let nobody = [NO_DOMAIN, DomId::IO, DomId::XEN, DomId(0x7ff3), DomId::INVALID, DomId(u16::MAX)];
    report.everywhere(
        "mapping what is lent by",
        nobody.map(|domain| (domain, map(domain, GrantRef(8), 0, at))).into_iter(),
    );
    // A control domain is the host domain itself.
    if !start_info::is_control_domain() {
        report.everywhere(
            "mapping the host domain's entry",
            (0..16).map(|reference| (reference, map(DomId::HOST, GrantRef(reference), 0, at))),
        );
    }
}

/// Frames that are not mine to lend, or not for writing, by every way to what an entry names.
fn frames(report: &mut Report, own: DomId, at: u64) {
    let page = Page::new();
    let frame = Side::Frame(page.mfn());
    let lent = |mfn: &Mfn, attempt: &dyn Fn(GrantRef) -> Result<(), crate::grant::Error>| {
        let reference = table::lend(own, *mfn, 0)?;
        let result = attempt(reference);
        table::take_back(reference);
        result
    };
    let foreign: Vec<Mfn> =
        targets().into_iter().chain([NO_FRAME, Mfn(translation::m2p().max_mfn + 1)]).collect();
    let tables = Level::ALL.map(|level| {
        translation::mfn(linear::table(linear::root(), level, page.address()).expect("a linear address"))
    });
    let read_only = MapFlags::READ_ONLY;
    let everywhere = |report: &mut Report, what, frames: &[Mfn], attempt: &dyn Fn(&Mfn) -> _| {
        report.everywhere(what, frames.iter().map(|mfn| (*mfn, attempt(mfn))));
    };
    let writing = |mfn: &Mfn| lent(mfn, &|reference| map(own, reference, 0, at).map(|_| ()));
    let reading = |mfn: &Mfn| lent(mfn, &|reference| map(own, reference, read_only, at).map(|_| ()));
    everywhere(report, "lending myself frames not mine, for writing", &foreign, &writing);
    everywhere(report, "lending myself frames not mine, for reading", &foreign, &reading);
    everywhere(report, "lending myself my tables, for writing", &tables, &writing);
    let from = |mfn: &Mfn| lent(mfn, &|reference| copy((Side::Grant(own, reference), 0), (frame, 0), 4096));
    let to = |mfn: &Mfn| lent(mfn, &|reference| copy((frame, 0), (Side::Grant(own, reference), 0), 4096));
    everywhere(report, "copying what I lend myself from frames not mine", &foreign, &from);
    everywhere(report, "copying to frames not mine that I lend myself", &foreign, &to);
    everywhere(report, "copying to my tables, which I lend myself", &tables, &to);
    let plain_from = |mfn: &Mfn| copy((Side::Frame(*mfn), 0), (frame, 0), 4096);
    let plain_to = |mfn: &Mfn| copy((frame, 0), (Side::Frame(*mfn), 0), 4096);
    everywhere(report, "copying from frames not mine", &foreign, &plain_from);
    everywhere(report, "copying to frames not mine", &foreign, &plain_to);
    everywhere(report, "copying to my tables", &tables, &plain_to);
    for (what, from, to, length) in
        [("from behind a page", 4095, 0, 2), ("to behind a page", 0, 4095, 2), ("of 64 KiB", 0, 0, u16::MAX)]
    {
        report.refusal(format!("a copy {what}"), copy((frame, from), (frame, to), length));
    }
}

/// Entries of page tables that are not mine to write.
fn places(report: &mut Report, own: DomId, at: u64) {
    let loan = Loan::new(own, 0);
    let page = Page::new();
    let hypervisors = || hypervisor_addresses().map(Hex);
    report.everywhere(
        "mapping a page of mine over the hypervisor at",
        hypervisors().map(|place| (place, map(own, loan.reference, 0, place.0))),
    );
    let by_entry = |place: u64| map(own, loan.reference, MapFlags::CONTAINS_PTE, place);
    report.everywhere(
        "mapping a page of mine by entries of frames not mine in",
        targets().iter().map(|mfn| (mfn, by_entry(mfn.address()))),
    );
    for level in [Level::L2, Level::L3, Level::L4] {
        let table = linear::table(linear::root(), level, page.address()).expect("a linear address");
        let place = linear::entry_address(table, level, page.address());
        report.refusal(format!("mapping a page of mine as an entry of my {level:?}"), by_entry(place));
    }
    report.refusal("mapping a page of mine across two entries", by_entry(place_of(at) + 4));
    report.refusal("mapping a page of mine by an entry in another", by_entry(page.mfn().address()));
    let Ok(handle) = map(own, loan.reference, 0, at) else {
        return report.attempt("a mapping", false, "cannot be set up");
    };
    report.everywhere(
        "moving an entry of the hypervisor's here, from",
        hypervisors().map(|place| (place, replace(handle, at, place.0))),
    );
    report.everywhere(
        "unmapping a page of mine from the hypervisor at",
        hypervisors().map(|place| (place, unmap(handle, place.0))),
    );
    if let Err(error) = unmap(handle, at) {
        report.attempt("unmapping it", false, error);
    }
}

/// Mappings that are not there.
fn handles(report: &mut Report, own: DomId, at: u64) {
    let loan = Loan::new(own, GrantEntry::READ_ONLY);
    let wild = [0x1000, 8191, 8192, 1 << 16, 1 << 31, u32::MAX].map(GrantHandle);
    report.everywhere(
        "unmapping by handle",
        wild.map(|handle| (Hex(handle.0.into()), unmap(handle, at))).into_iter(),
    );
    report.everywhere(
        "replacing by handle",
        wild.map(|handle| (Hex(handle.0.into()), replace(handle, at, loan.page.address()))).into_iter(),
    );
    report.refusal("mapping for writing what is lent for reading", map(own, loan.reference, 0, at));
}

/// The frames of the table are the domain's, but the hypervisor writes them: no tables, nor descriptors.
fn the_table(report: &mut Report) {
    let Ok(frames) = table::set_up(1) else {
        return report.attempt("the grant table's frames", false, "are not told");
    };
    for command in [MmuExtCommand::PIN_L1_TABLE, MmuExtCommand::PIN_L4_TABLE, MmuExtCommand::NEW_BASEPTR] {
        let operation = MmuExtOp::new(command, frames[0].0);
        report.refusal(format!("{command} of my grant table"), mmuext_op(&[operation]).0);
    }
}
