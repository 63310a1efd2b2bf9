//! What a front-end asks for: a slot of the ring, copied out once, and all that can be checked about it.

use pv_abi::io::block::{
    DiscardRequest, IndirectRequest, LAST_SECTOR_OF_PAGE, MAX_INDIRECT_PAGES, MAX_SEGMENTS, Operation,
    Request, SECTOR_BYTES, SEGMENTS_PER_PAGE, Segment, Status,
};
use pv_abi::{GrantRef, PAGE_SIZE};
use zerocopy::{FromBytes, IntoBytes};

/// What the requests of a front-end are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Sectors of the disk. No request may reach beyond.
    pub sectors: u64,
    /// Whether the disk may be written.
    pub writable: bool,
    /// Segments of an indirect request.
    pub indirect_segments: u16,
}

/// A request that is not done, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the front-end is told.
    pub status: Status,
    /// Why the request was refused, for people.
    pub reason: &'static str,
}

const fn error(reason: &'static str) -> Refused {
    Refused { status: Status::ERROR, reason }
}

const fn unsupported(reason: &'static str) -> Refused {
    Refused { status: Status::EOPNOTSUPP, reason }
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the disk into the front-end's pages.
    Read,
    /// From the front-end's pages to the disk.
    Write,
}

/// A request that can be done, as far as the request itself tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task<'a> {
    /// Move data from or to byte `offset` of the disk on.
    Transfer { direction: Direction, offset: u64, segments: &'a [Segment] },
    /// The same, but the segments stand in pages that are to be read, and checked with [`check_segments`].
    Indirect { direction: Direction, sector: u64, count: u16, pages: &'a [GrantRef] },
    /// A write, perhaps of nothing, that nothing passes.
    Barrier { offset: u64, segments: &'a [Segment] },
    /// Make durable what was written.
    Flush,
    /// Forget bytes of the disk.
    Discard { offset: u64, length: u64 },
}

/// The id of a request, whatever its shape.
pub(super) fn id(request: &Request) -> u64 {
    match IndirectRequest::read_from_prefix(request.as_bytes()) {
        Ok((indirect, _)) if request.operation == Operation::INDIRECT => indirect.id,
        _ => request.id,
    }
}

/// The operation that the response to a request names: that of an indirect one is the one inside, as front-ends expect.
pub(super) fn operation(request: &Request) -> Operation {
    match IndirectRequest::read_from_prefix(request.as_bytes()) {
        Ok((indirect, _)) if request.operation == Operation::INDIRECT => indirect.indirect_op,
        _ => request.operation,
    }
}

/// Checks a request and says what is to be done.
pub(super) fn check(request: &Request, limits: Limits) -> Result<Task<'_>, Refused> {
    match request.operation {
        Operation::READ => transfer(request, Direction::Read, limits),
        Operation::WRITE => transfer(request, Direction::Write, limits),
        Operation::WRITE_BARRIER => barrier(request, limits),
        Operation::FLUSH_DISKCACHE if request.nr_segments != 0 => Err(error("a flush has no segments")),
        Operation::FLUSH_DISKCACHE => Ok(Task::Flush),
        Operation::DISCARD => discard(request, limits),
        Operation::INDIRECT => indirect(request, limits),
        _ => Err(unsupported("an operation nobody knows")),
    }
}

fn segments(request: &Request) -> Result<&[Segment], Refused> {
    let segments = request.seg.get(..usize::from(request.nr_segments));
    segments.ok_or(error("more segments than a request has"))
}

fn transfer(request: &Request, direction: Direction, limits: Limits) -> Result<Task<'_>, Refused> {
    let segments = segments(request)?;
    let offset = check_segments(segments, direction, request.sector_number, limits)?;
    Ok(Task::Transfer { direction, offset, segments })
}

fn barrier(request: &Request, limits: Limits) -> Result<Task<'_>, Refused> {
    let segments = segments(request)?;
    if !segments.is_empty() {
        let offset = check_segments(segments, Direction::Write, request.sector_number, limits)?;
        return Ok(Task::Barrier { offset, segments });
    }
    if !limits.writable {
        return Err(READ_ONLY);
    }
    // Of a write of nothing, the sector means nothing, and was not checked.
    Ok(Task::Barrier { offset: 0, segments })
}

const READ_ONLY: Refused = error("the disk is read-only");
const BEHIND_THE_END: Refused = error("sectors behind the end of the disk");

/// The segments of a transfer: each within its page, together within the disk. Returns where on the disk, in bytes.
pub(super) fn check_segments(
    segments: &[Segment],
    direction: Direction,
    sector: u64,
    limits: Limits,
) -> Result<u64, Refused> {
    if direction == Direction::Write && !limits.writable {
        return Err(READ_ONLY);
    }
    if segments.is_empty() {
        return Err(error("no segments"));
    }
    let mut count: u64 = 0;
    for Segment { first_sect, last_sect, .. } in segments {
        let sectors = match last_sect.checked_sub(*first_sect) {
            Some(behind_first) if *last_sect <= LAST_SECTOR_OF_PAGE => {
                u64::from(behind_first).saturating_add(1)
            }
            _ => return Err(error("a segment that leaves its page")),
        };
        count = count.saturating_add(sectors);
    }
    offset(sector, count, limits.sectors)
}

/// The first byte of sectors that are on the disk.
fn offset(sector: u64, count: u64, sectors: u64) -> Result<u64, Refused> {
    match sector.checked_add(count) {
        Some(end) if end <= sectors => Ok(bytes(sector)),
        _ => Err(BEHIND_THE_END),
    }
}

/// Bytes of sectors that are on the disk, whose bytes can be counted.
const fn bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR_BYTES)
}

fn discard(request: &Request, limits: Limits) -> Result<Task<'_>, Refused> {
    let Ok((discard, _)) = DiscardRequest::read_from_prefix(request.as_bytes()) else {
        return Err(error("not a discard"));
    };
    if !limits.writable {
        return Err(READ_ONLY);
    }
    if discard.nr_sectors == 0 {
        return Err(error("a discard of nothing"));
    }
    let offset = offset(discard.sector_number, discard.nr_sectors, limits.sectors)?;
    Ok(Task::Discard { offset, length: bytes(discard.nr_sectors) })
}

fn indirect(request: &Request, limits: Limits) -> Result<Task<'_>, Refused> {
    let Ok((indirect, _)) = IndirectRequest::ref_from_prefix(request.as_bytes()) else {
        return Err(error("not an indirect request"));
    };
    let direction = match indirect.indirect_op {
        Operation::READ => Direction::Read,
        Operation::WRITE if limits.writable => Direction::Write,
        Operation::WRITE => return Err(READ_ONLY),
        _ => return Err(unsupported("an indirect request that neither reads nor writes")),
    };
    let count = indirect.nr_segments;
    if count == 0 || count > limits.indirect_segments {
        return Err(error("no segments, or more than were offered"));
    }
    let pages = usize::from(count).div_ceil(SEGMENTS_PER_PAGE);
    let pages =
        indirect.indirect_grefs.get(..pages).ok_or(error("more pages of segments than there can be"))?;
    Ok(Task::Indirect { direction, sector: indirect.sector_number, count, pages })
}

/// Where in its page a checked segment lies: offset and length in bytes.
pub(super) fn range(segment: &Segment) -> (usize, usize) {
    let bytes = |sectors: u8| usize::from(sectors).saturating_mul(SECTOR_BYTES as usize);
    let start = bytes(segment.first_sect);
    (start, bytes(segment.last_sect.saturating_add(1)).saturating_sub(start))
}

const _: () = {
    assert!(MAX_SEGMENTS == 11 && SEGMENTS_PER_PAGE * MAX_INDIRECT_PAGES >= 4096);
    assert!((LAST_SECTOR_OF_PAGE as usize + 1) * SECTOR_BYTES as usize == PAGE_SIZE);
};
