//! Grants, of this domain's pages to itself: every rule holds for those as well.

use pv_abi::grant_table::{
    CopyPointer, GetVersion, GrantCopy, GrantEntry, GrantHandle, GrantStatus as Status, GrantTableOp as Op,
    MapFlags, MapGrantRef, QuerySize, SetVersion, SetupTable, UnmapAndReplace, UnmapGrantRef,
};
use pv_abi::hypercall::HypercallNumber;
use pv_abi::page_table::PteFlags;
use pv_abi::{DomId, Errno, GrantRef, Mfn};

use super::laboratory::{Page, read, write};
use super::mappings::place_of;
use super::report::Report;
use super::{WILD, hypercall};
use crate::event;
use crate::grant::{Error, outcome, table};
use crate::memory::{Window, linear, translation};

const PAGE_FAULT: u64 = 14;
const PERMIT: u16 = GrantEntry::PERMIT_ACCESS;
const READING: u16 = GrantEntry::READING;
const WRITING: u16 = GrantEntry::WRITING;
/// A domain that there is not.
pub const NO_DOMAIN: DomId = DomId(0x6fff);
/// A frame that no machine has.
pub const NO_FRAME: Mfn = Mfn(u32::MAX as u64);

pub fn run(report: &mut Report) {
    tables(report);
    calls(report);
    let own = event::own_domain();
    report.check("the number of this domain", own.is_ok(), format_args!("{own:?}"));
    let Ok(own) = own else { return };
    in_use(report, own);
    read_only(report, own);
    twice(report, own);
    mapping_refusals(report, own);
    entries(report, own);
    replacing(report, own);
    copying(report, own);
    copying_refusals(report, own);
}

/// A page lent to a domain, and taken back when dropped.
pub struct Loan {
    pub page: Page,
    pub reference: GrantRef,
}

impl Loan {
    /// Panics where it cannot be lent: then nothing can be tested.
    pub fn new(domain: DomId, flags: u16) -> Self {
        let page = Page::new();
        let reference = table::lend(domain, page.mfn(), flags).expect("a grant for an experiment");
        Self { page, reference }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if !table::take_back(self.reference) {
            println!("{:?} is still in use, and its page is lost", self.reference);
            // The page's own drop would give it to somebody else.
            core::mem::forget(core::mem::replace(&mut self.page, Page::new()));
        }
    }
}

/// An operation on one element.
fn operate<T>(op: Op, element: &mut T, status: fn(&T) -> Status) -> Result<(), Error> {
    let args = [op.0, element as *mut T as u64, 1, 0, 0];
    let made = hypercall(HypercallNumber::GRANT_TABLE_OP, args);
    outcome(made, status(element))
}

pub fn request(dom: DomId, reference: GrantRef, flags: u32, host_addr: u64) -> MapGrantRef {
    let (status, handle) = (Status(99), GrantHandle(0));
    MapGrantRef { host_addr, flags, reference, dom, status, handle, dev_bus_addr: 0 }
}

/// Maps for the caller; `flags` are further ones.
pub fn map(dom: DomId, reference: GrantRef, flags: u32, host_addr: u64) -> Result<GrantHandle, Error> {
    let mut request = request(dom, reference, MapFlags::HOST_MAP | flags, host_addr);
    operate(Op::MAP_GRANT_REF, &mut request, |request| request.status).map(|()| request.handle)
}

pub fn unmap(handle: GrantHandle, host_addr: u64) -> Result<(), Error> {
    let mut request = UnmapGrantRef { host_addr, dev_bus_addr: 0, handle, status: Status(99), padding: 0 };
    operate(Op::UNMAP_GRANT_REF, &mut request, |request| request.status)
}

pub fn replace(handle: GrantHandle, host_addr: u64, new_addr: u64) -> Result<(), Error> {
    let mut request = UnmapAndReplace { host_addr, new_addr, handle, status: Status(99), padding: 0 };
    operate(Op::UNMAP_AND_REPLACE, &mut request, |request| request.status)
}

/// One side of a copy.
#[derive(Clone, Copy)]
pub enum Side {
    Frame(Mfn),
    /// A frame, with the number of its owner instead of "oneself".
    FrameOf(DomId, Mfn),
    Grant(DomId, GrantRef),
}

pub fn copy(source: (Side, u16), dest: (Side, u16), len: u16) -> Result<(), Error> {
    let pointer = |(side, offset)| {
        let (page, domid) = match side {
            Side::Frame(frame) => (frame.0, DomId::SELF),
            Side::FrameOf(owner, frame) => (frame.0, owner),
            Side::Grant(owner, reference) => (u64::from(reference.0), owner),
        };
        CopyPointer { page, domid, offset, padding: 0 }
    };
    let flag = |side, flag| if matches!(side, Side::Grant(..)) { flag } else { 0 };
    let flags = flag(source.0, GrantCopy::SOURCE_GREF) | flag(dest.0, GrantCopy::DEST_GREF);
    let (source, dest) = (pointer(source), pointer(dest));
    let mut request = GrantCopy { source, dest, len, flags, status: Status(99), padding: 0 };
    operate(Op::COPY, &mut request, |request| request.status)
}

fn failed<T>(status: Status) -> Result<T, Error> {
    Err(Error::Failed(status))
}

/// What the table is.
fn tables(report: &mut Report) {
    let mut size = QuerySize {
        dom: DomId::SELF,
        padding0: 0,
        nr_frames: 0,
        max_nr_frames: 0,
        status: Status(99),
        padding1: 0,
    };
    report.equal("the grant table's size", operate(Op::QUERY_SIZE, &mut size, |size| size.status), Ok(()));
    report.check(
        "its frames",
        (1..=size.max_nr_frames).contains(&size.nr_frames),
        format_args!("{} of {} at most", size.nr_frames, size.max_nr_frames),
    );
    let beyond = table::set_up(size.max_nr_frames as usize + 1).map(|_| ());
    report.equal("more frames than that", beyond, failed(Status::GENERAL_ERROR));
    let (dom, status, frame_list) = (DomId::SELF, Status(99), WILD);
    let mut wild = SetupTable { dom, padding0: 0, nr_frames: 1, status, padding1: [0; 3], frame_list };
    let wild = operate(Op::SETUP_TABLE, &mut wild, |wild| wild.status);
    report.equal("its frames to a wild address", wild, failed(Status::BAD_VIRT_ADDR));
    let none = |_: &GetVersion| Status::OKAY;
    let mut version = GetVersion { dom: DomId::SELF, padding: 0, version: 0 };
    report.equal(
        "its version",
        operate(Op::GET_VERSION, &mut version, none).map(|()| version.version),
        Ok(1),
    );
    for (version, expected) in [(1, Ok(())), (3, Err(Error::Refused(Errno::EINVAL)))] {
        let set = operate(Op::SET_VERSION, &mut SetVersion { version }, |_| Status::OKAY);
        report.equal(&alloc::format!("version {version}"), set, expected);
    }
}

/// The call itself.
fn calls(report: &mut Report) {
    let call = |op: Op, at, count| hypercall(HypercallNumber::GRANT_TABLE_OP, [op.0, at, count, 0, 0]);
    report.refused("an unknown grant operation", call(Op(99), WILD, 1), Errno::ENOSYS);
    for op in [Op::MAP_GRANT_REF, Op::UNMAP_GRANT_REF, Op::UNMAP_AND_REPLACE, Op::COPY] {
        let name = op.name().unwrap_or("an operation");
        report.done(&alloc::format!("{name} of nothing"), call(op, WILD, 0));
        report.refused(&alloc::format!("{name} at a wild address"), call(op, WILD, 1), Errno::EFAULT);
        let negative = call(op, WILD, 1 << 31);
        report.refused(&alloc::format!("{name} of two billion"), negative, Errno::EINVAL);
    }
    report.refused("setting two tables up", call(Op::SETUP_TABLE, WILD, 2), Errno::EINVAL);
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

fn mapping_refusals(report: &mut Report, own: DomId) {
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

fn copying_refusals(report: &mut Report, own: DomId) {
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
