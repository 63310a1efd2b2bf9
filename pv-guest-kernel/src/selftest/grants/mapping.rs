//! Mappings of granted pages: what they are good for, how they end, and which there cannot be.

use pv_abi::grant_table::{GrantEntry, GrantHandle, GrantStatus as Status, GrantTableOp as Op, MapFlags};
use pv_abi::hypercall::HypercallNumber;
use pv_abi::page_table::PteFlags;
use pv_abi::{DomId, GrantRef, Mfn};

use super::super::hypercall;
use super::super::laboratory::{Page, read, write};
use super::super::mappings::place_of;
use super::super::report::Report;
use super::{Loan, NO_DOMAIN, NO_FRAME, PERMIT, failed, map, operate, replace, request, unmap};
use crate::grant::table;
use crate::memory::{Window, linear, translation};

const PAGE_FAULT: u64 = 14;
const READING: u16 = GrantEntry::READING;
const WRITING: u16 = GrantEntry::WRITING;

pub fn run(report: &mut Report, own: DomId) {
    in_use(report, own);
    read_only(report, own);
    twice(report, own);
    refusals(report, own);
    entries(report, own);
    replacing(report, own);
}

/// A page while it is mapped, and after.
fn in_use(report: &mut Report, own: DomId) {
    let (loan, window) = (Loan::new(own, 0), Window::take().expect("a window"));
    let at = window.address();
    loan.page.set(0, 0x600d);
    let mapped = map(own, loan.reference, 0, at);
    report.check("a granted page mapped", mapped.is_ok(), format_args!("{mapped:?}"));
    let Ok(handle) = mapped else { return };
    report.equal("the entry's flags", table::flags(loan.reference), PERMIT | READING | WRITING);
    report.runs("what is read of it", &read(at), 0x600d);
    report.check("writing it", write(at, 0xbeef).is_ok(), "no trap");
    report.equal("what its owner finds", loan.page.get(0), 0xbeef);
    report.equal("taking it back meanwhile", table::take_back(loan.reference), false);
    report.equal(
        "unmapping another handle",
        unmap(GrantHandle(handle.0 + 100), at),
        failed(Status::BAD_HANDLE),
    );
    report.equal("unmapping a wild handle", unmap(GrantHandle(u32::MAX), at), failed(Status::BAD_HANDLE));
    let elsewhere = unmap(handle, Page::new().address());
    report.equal("unmapping it where another page is", elsewhere, failed(Status::GENERAL_ERROR));
    report.equal("unmapping it", unmap(handle, at), Ok(()));
    report.traps("what is read then", &read(at), PAGE_FAULT, 0);
    report.equal("the entry's flags", table::flags(loan.reference), PERMIT);
    report.equal("unmapping it twice", unmap(handle, at), failed(Status::BAD_HANDLE));
    let reference = loan.reference;
    drop(loan);
    report.equal("the flags of an entry taken back", table::flags(reference), 0);
    report.equal("mapping by it", map(own, reference, 0, at), failed(Status::GENERAL_ERROR));
}

fn read_only(report: &mut Report, own: DomId) {
    let loan = Loan::new(own, GrantEntry::READ_ONLY);
    let window = Window::take().expect("a window");
    let at = window.address();
    let writable = map(own, loan.reference, 0, at);
    report.equal("a page lent for reading, mapped for writing", writable, failed(Status::GENERAL_ERROR));
    let mapped = map(own, loan.reference, MapFlags::READ_ONLY, at);
    report.check("mapped for reading", mapped.is_ok(), format_args!("{mapped:?}"));
    let Ok(handle) = mapped else { return };
    let flags = PERMIT | GrantEntry::READ_ONLY | READING;
    report.equal("the entry's flags", table::flags(loan.reference), flags);
    report.runs("what is read of it", &read(at), 0);
    report.traps("writing it", &write(at, 1), PAGE_FAULT, 3);
    report.equal("unmapping it", unmap(handle, at), Ok(()));
}

/// Two mappings of a page, and a batch in which one element fails.
fn twice(report: &mut Report, own: DomId) {
    let loan = Loan::new(own, 0);
    let windows = [0; 2].map(|_| Window::take().expect("a window"));
    let [first, second] = [0, 1].map(|index: usize| windows[index].address());
    let host = MapFlags::HOST_MAP;
    let mut batch = [
        request(own, GrantRef(u32::MAX), host, first),
        request(own, loan.reference, host | MapFlags::READ_ONLY, first),
        request(own, loan.reference, host, second),
    ];
    let args = [Op::MAP_GRANT_REF.0, batch.as_mut_ptr() as u64, batch.len() as u64, 0, 0];
    report.done("three mappings, one of them bad", hypercall(HypercallNumber::GRANT_TABLE_OP, args));
    let statuses = batch.map(|request| request.status);
    report.equal("what became of each", statuses, [Status::BAD_GNTREF, Status::OKAY, Status::OKAY]);
    report.equal(
        "the flags of an entry mapped twice",
        table::flags(loan.reference),
        PERMIT | READING | WRITING,
    );
    report.equal("unmapping the writable one", unmap(batch[2].handle, second), Ok(()));
    report.equal("the entry's flags", table::flags(loan.reference), PERMIT | READING);
    report.equal("unmapping the other", unmap(batch[1].handle, first), Ok(()));
    report.equal("the entry's flags", table::flags(loan.reference), PERMIT);
}

fn refusals(report: &mut Report, own: DomId) {
    let window = Window::take().expect("a window");
    let at = window.address();
    let loan = Loan::new(own, 0);
    let stranger = Loan::new(NO_DOMAIN, 0);
    let mine = loan.reference;
    for (what, domain, reference, address, expected) in [
        ("a mapping from a domain that does not exist", NO_DOMAIN, mine, at, Status::BAD_DOMAIN),
        ("a mapping from \"oneself\"", DomId::SELF, mine, at, Status::BAD_DOMAIN),
        ("an entry beyond the table", own, GrantRef(u32::MAX), at, Status::BAD_GNTREF),
        ("an entry for another domain", own, stranger.reference, at, Status::GENERAL_ERROR),
        ("a mapping where there is no table", own, mine, 1 << 40, Status::GENERAL_ERROR),
    ] {
        report.equal(what, map(domain, reference, 0, address), failed(expected));
    }
    let mut neither = request(own, mine, MapFlags::READ_ONLY, at);
    let neither = operate(Op::MAP_GRANT_REF, &mut neither, |request| request.status);
    report.equal("a mapping for nobody", neither, failed(Status::BAD_GNTREF));
    let mut frame = |what: &str, frame, flags, expected| {
        let reference = table::lend(own, frame, 0).expect("a grant");
        let mapped = map(own, reference, flags, at);
        report.equal(what, mapped.map(|handle| unmap(handle, at)), expected);
        let taken = table::take_back(reference);
        report.equal("taking it back", taken, true);
    };
    frame("a frame that there is not", NO_FRAME, 0, failed(Status::BAD_PAGE));
    let root = translation::mfn(linear::root());
    frame("my root, for writing", root, 0, failed(Status::GENERAL_ERROR));
    frame("my root, for reading", root, MapFlags::READ_ONLY, Ok(Ok(())));
}

/// Mappings by the machine address of an entry.
fn entries(report: &mut Report, own: DomId) {
    let (loan, window) = (Loan::new(own, 0), Window::take().expect("a window"));
    let (at, place) = (window.address(), place_of(window.address()));
    loan.page.set(0, 0xcafe);
    let by_entry = |place| map(own, loan.reference, MapFlags::CONTAINS_PTE, place);
    let mapped = by_entry(place);
    report.check("a mapping by the address of its entry", mapped.is_ok(), format_args!("{mapped:?}"));
    let Ok(handle) = mapped else { return };
    report.runs("what is read of it", &read(at), 0xcafe);
    report.equal("unmapping it by its linear address", unmap(handle, at), failed(Status::GENERAL_ERROR));
    let replaced = replace(handle, place, Page::new().address());
    report.equal("replacing it", replaced, failed(Status::GENERAL_ERROR));
    report.equal("unmapping it by its entry", unmap(handle, place), Ok(()));
    let root = translation::mfn(linear::root()).address();
    for (what, place) in [
        ("half an entry", place + 4),
        ("an entry of my root", root),
        ("an entry in a page of mine", loan.page.mfn().address()),
        ("an entry in a frame that there is not", NO_FRAME.address()),
    ] {
        report.equal(&alloc::format!("a mapping by {what}"), by_entry(place), failed(Status::GENERAL_ERROR));
    }
}

fn replacing(report: &mut Report, own: DomId) {
    let (loan, window) = (Loan::new(own, 0), Window::take().expect("a window"));
    let (at, other) = (window.address(), Page::new());
    other.set(0, 0x0dd);
    let Ok(handle) = map(own, loan.reference, 0, at) else {
        return report.check("a mapping to be replaced", false, "none");
    };
    let nowhere = replace(handle, at, 1 << 40);
    report.equal("replacing it by what has no table", nowhere, failed(Status::GENERAL_ERROR));
    report.equal("replacing a granted page by another", replace(handle, at, other.address()), Ok(()));
    report.runs("what is read there", &read(at), 0x0dd);
    report.traps("what is read where that was", &read(other.address()), PAGE_FAULT, 0);
    report.equal("the entry's flags", table::flags(loan.reference), PERMIT);
    report.equal("replacing it twice", replace(handle, at, other.address()), failed(Status::BAD_HANDLE));
    window.show(Mfn(0), PteFlags::empty()).expect("an empty window");
}
