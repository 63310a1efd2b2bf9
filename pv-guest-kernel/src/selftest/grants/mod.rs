//! Grants, of this domain's pages to itself: every rule holds for those as well.

mod copying;
mod mapping;

use pv_abi::grant_table::{
    CopyPointer, GetVersion, GrantCopy, GrantEntry, GrantHandle, GrantStatus as Status, GrantTableOp as Op,
    MapFlags, MapGrantRef, QuerySize, SetVersion, SetupTable, UnmapAndReplace, UnmapGrantRef,
};
use pv_abi::hypercall::HypercallNumber;
use pv_abi::{DomId, Errno, GrantRef, Mfn};

use super::laboratory::Page;
use super::report::Report;
use super::{WILD, hypercall};
use crate::event;
use crate::grant::{Error, outcome, table};

const PERMIT: u16 = GrantEntry::PERMIT_ACCESS;
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
    mapping::run(report, own);
    copying::run(report, own);
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

/// What `GNTTABOP_copy` copies from or to.
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

/// What the table itself is: its size, the limit of that, and its version.
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

/// The hypercall as such: operations that there are not, counts that are too large, addresses that are not mapped.
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
