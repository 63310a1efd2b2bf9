//! Requests that cannot be done, each answered with an error; an honest one behind them is served.

use super::{FOR_THE_NEIGHBOUR, ImageFile, NOBODYS, OF_A_TABLE, OF_THE_CANARY, SECTORS, TO_READ};
use super::{honest, lend_what_is_nobodys};
use crate::served::Served;
use crate::support::check;
use crate::tiny_guest::{Code, DATA_PAGE, DATA_REF, Guest, SEGMENT_PAGE, SEGMENT_REF, request, segment};
use libtest_mimic::Failed;
use pv_abi::GrantRef;
use pv_abi::io::block::{
    DiscardRequest, IndirectRequest, MAX_INDIRECT_PAGES, Operation as Op, Request, Status,
};
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// A request, and how it is to end.
type Attempt = (&'static str, Request, Status);

/// Another shape as it lies in the slot of a request.
fn shaped(shape: &(impl IntoBytes + Immutable)) -> Request {
    let mut request = Request::new_zeroed();
    shape.write_to_prefix(request.as_mut_bytes()).expect("a request is the longest");
    request
}

fn discard(sector_number: u64, nr_sectors: u64) -> Request {
    shaped(&DiscardRequest {
        operation: Op::DISCARD,
        sector_number,
        nr_sectors,
        ..DiscardRequest::new_zeroed()
    })
}

fn indirect(indirect_op: Op, nr_segments: u16, segments: GrantRef) -> Request {
    let indirect_grefs = [segments; MAX_INDIRECT_PAGES];
    let operation = Op::INDIRECT;
    let rest = IndirectRequest::new_zeroed();
    shaped(&IndirectRequest { operation, indirect_op, nr_segments, indirect_grefs, ..rest })
}

/// Has a guest ask for all of these, waits for the answers, and checks them. What can't be done is not even tried on the
/// host: none of it fails there.
fn attempt(
    served: &Served,
    image: &ImageFile,
    writable: bool,
    attempts: &[Attempt],
    prepare: impl FnOnce(&Guest) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let mut code = Code::default();
    code.find_store().connect_disk();
    for (number, (_, request, _)) in (0..).zip(attempts) {
        // The id is at the same place in all shapes.
        code.ask_disk(&Request { id: number, ..*request });
    }
    let disk = image.disk(writable);
    let attacker = served.build_with_disk(code.await_disk().park(), Arc::clone(&disk))?;
    prepare(&attacker.guest)?;
    attacker.guest.start()?;
    let parked = attacker.guest.wait_until_parked();
    parked.map_err(|error| format!("{error:?}; disconnected: {:?}", attacker.failures()))?;
    served.neighbour_goes_on()?;
    let answers = attacker.guest.answers();
    for (number, (what, request, due)) in (0..).zip(attempts) {
        let answer = answers.get(&number).map(|answer| (answer.operation, answer.status));
        // Of an indirect request the response names the operation inside.
        let operation = match request.operation {
            Op::INDIRECT => IndirectRequest::read_from_prefix(request.as_bytes()).unwrap().0.indirect_op,
            other => other,
        };
        check(answer == Some((operation, *due)), || format!("{what}: {answer:?}"))?;
    }
    let data = attacker.guest.peek_bytes(DATA_PAGE, 512);
    check(data == image.contents[512..1024], || "the honest request got something else".into())?;
    check(disk.failures().total().0 == 0, || format!("the host was asked: {:?}", disk.failures()))?;
    check(attacker.failures().is_empty(), || format!("{:?}", attacker.failures()))?;
    served.end(attacker)?;
    image.is_unchanged()
}

/// XSA-39, 155, 216 and others. Segments that are too many or leave their page, sectors behind the disk's end or wrapping
/// round to its start, pages that the guest does not lend or has not got, in all shapes that a request has.
pub fn wild() -> Result<(), Failed> {
    let (served, image) = (Served::new()?, ImageFile::new()?);
    let read = |sector, first, last| request(Op::READ, sector, &[segment(DATA_REF, first, last)]);
    let page = |gref| request(Op::READ, 0, &[segment(gref, 0, 0)]);
    let many = |nr_segments| Request { nr_segments, ..read(0, 0, 0) };
    let attempts = [
        ("no segment", many(0), Status::ERROR),
        ("a segment more than there are", many(12), Status::ERROR),
        ("255 segments", many(255), Status::ERROR),
        ("a segment that ends before it begins", read(0, 5, 4), Status::ERROR),
        ("a segment that ends behind its page", read(0, 7, 8), Status::ERROR),
        ("a segment far behind its page", read(0, 200, 255), Status::ERROR),
        ("the sector behind the last", read(SECTORS, 0, 0), Status::ERROR),
        ("sectors across the end", read(SECTORS - 1, 0, 1), Status::ERROR),
        ("sectors that wrap", read(u64::MAX, 0, 7), Status::ERROR),
        ("a sector whose byte wraps", read(1 << 55, 0, 0), Status::ERROR),
        (
            "writing sectors that wrap",
            request(Op::WRITE, u64::MAX, &[segment(DATA_REF, 0, 7)]),
            Status::ERROR,
        ),
        ("a page that is not lent", page(NOBODYS), Status::ERROR),
        ("an entry behind the table", page(GrantRef(512)), Status::ERROR),
        ("an entry far behind the table", page(GrantRef(u32::MAX)), Status::ERROR),
        ("a page that is lent to another", page(FOR_THE_NEIGHBOUR), Status::ERROR),
        ("a page of the canary's", page(OF_THE_CANARY), Status::ERROR),
        ("its own page table, to be written", page(OF_A_TABLE), Status::ERROR),
        ("a page that is lent for reading", page(TO_READ), Status::ERROR),
        ("discarding behind the end", discard(SECTORS - 1, 2), Status::ERROR),
        ("discarding what wraps", discard(u64::MAX, 2), Status::ERROR),
        ("more indirect segments than offered", indirect(Op::READ, 257, SEGMENT_REF), Status::ERROR),
        ("65535 indirect segments", indirect(Op::READ, u16::MAX, SEGMENT_REF), Status::ERROR),
        ("no indirect segment", indirect(Op::READ, 0, SEGMENT_REF), Status::ERROR),
        ("indirect segments in a page that is not lent", indirect(Op::READ, 1, NOBODYS), Status::ERROR),
        ("an indirect segment that leaves its page", indirect(Op::READ, 2, SEGMENT_REF), Status::ERROR),
        ("an indirect write of such a segment", indirect(Op::WRITE, 2, SEGMENT_REF), Status::ERROR),
        ("an indirect request in another", indirect(Op::INDIRECT, 1, SEGMENT_REF), Status::EOPNOTSUPP),
        ("an operation that nobody knows", request(Op(77), 0, &[]), Status::EOPNOTSUPP),
        ("an honest request", honest(), Status::OKAY),
    ];
    attempt(&served, &image, true, &attempts, |guest| {
        lend_what_is_nobodys(&served, guest)?;
        guest.poke(SEGMENT_PAGE, &[segment(DATA_REF, 0, 0), segment(DATA_REF, 1, 9)]);
        Ok(())
    })?;
    served.finish()
}

/// Whatever changes a disk is refused where it is read-only.
pub fn of_a_read_only_disk() -> Result<(), Failed> {
    let (served, image) = (Served::new()?, ImageFile::new()?);
    let one = [segment(DATA_REF, 0, 0)];
    let attempts = [
        ("a write", request(Op::WRITE, 0, &one), Status::ERROR),
        ("a barrier", request(Op::WRITE_BARRIER, 0, &one), Status::ERROR),
        ("a barrier alone", request(Op::WRITE_BARRIER, 0, &[]), Status::ERROR),
        ("a discard", discard(0, SECTORS), Status::ERROR),
        ("an indirect write", indirect(Op::WRITE, 1, SEGMENT_REF), Status::ERROR),
        ("an honest request", honest(), Status::OKAY),
    ];
    attempt(&served, &image, false, &attempts, |guest| {
        guest.poke(SEGMENT_PAGE, &one);
        Ok(())
    })?;
    served.finish()
}
