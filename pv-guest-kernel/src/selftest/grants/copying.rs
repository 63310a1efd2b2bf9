//! Copies from and to granted pages.

use pv_abi::grant_table::{GrantEntry, GrantStatus as Status};
use pv_abi::{DomId, GrantRef};

use super::super::laboratory::Page;
use super::super::report::Report;
use super::{Loan, NO_DOMAIN, NO_FRAME, PERMIT, Side, copy, failed};
use crate::grant::table;
use crate::memory::{linear, translation};

pub fn run(report: &mut Report, own: DomId) {
    copying(report, own);
    refusals(report, own);
}

fn copying(report: &mut Report, own: DomId) {
    let (loan, page) = (Loan::new(own, 0), Page::new());
    let (granted, frame) = (Side::Grant(own, loan.reference), Side::Frame(page.mfn()));
    (0..512).for_each(|index| page.set(index, index as u64));
    report.equal("a page copied to a granted one", copy((frame, 0), (granted, 0), 4096), Ok(()));
    report.equal("its last word", loan.page.get(511), 511);
    report.equal("a part copied from it", copy((granted, 8), (frame, 4088), 8), Ok(()));
    report.equal("the copy", page.get(511), 1);
    report.equal("a copy from a grant to itself", copy((granted, 8), (granted, 80), 8), Ok(()));
    report.equal("the copy", loan.page.get(10), 1);
    report.equal("nothing copied", copy((frame, 4096), (frame, 0), 0), Ok(()));
    report.equal("the flags of the entry", table::flags(loan.reference), PERMIT);
}

fn refusals(report: &mut Report, own: DomId) {
    let (loan, page) = (Loan::new(own, GrantEntry::READ_ONLY), Page::new());
    let (granted, frame) = (Side::Grant(own, loan.reference), Side::Frame(page.mfn()));
    let root = Side::Frame(translation::mfn(linear::root()));
    report.equal("a copy out of my root", copy((root, 0), (frame, 0), 8), Ok(()));
    for (what, source, dest, len, expected) in [
        ("to one lent for reading", (frame, 0), (granted, 0), 8, Status::GENERAL_ERROR),
        ("past the end of its page", (frame, 4090), (frame, 0), 8, Status::BAD_COPY_ARG),
        ("past the end of the other", (frame, 0), (frame, 4090), 8, Status::BAD_COPY_ARG),
        (
            "to a frame by its owner's number",
            (frame, 0),
            (Side::FrameOf(own, page.mfn()), 8),
            8,
            Status::PERMISSION_DENIED,
        ),
        (
            "from a domain that does not exist",
            (Side::Grant(NO_DOMAIN, GrantRef(8)), 0),
            (frame, 0),
            8,
            Status::BAD_DOMAIN,
        ),
        (
            "from an entry beyond the table",
            (Side::Grant(own, GrantRef(u32::MAX)), 0),
            (frame, 0),
            8,
            Status::BAD_GNTREF,
        ),
        ("from a frame that there is not", (Side::Frame(NO_FRAME), 0), (frame, 0), 8, Status::BAD_PAGE),
        ("into my root", (frame, 0), (root, 0), 8, Status::GENERAL_ERROR),
    ] {
        report.equal(&alloc::format!("a copy {what}"), copy(source, dest, len), failed(expected));
    }
    report.equal("the flags of the entry", table::flags(loan.reference), PERMIT | GrantEntry::READ_ONLY);
}
